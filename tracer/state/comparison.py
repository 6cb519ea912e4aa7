# SPDX-License-Identifier: Apache-2.0
"""The gauges and counters of the home network namespace, and how far they are from the kernel's."""

from collections.abc import Sequence

import numpy as np

from tracer.events.batch import EventBatch
from tracer.events.records import take
from tracer.events.schema import STATE_NAMES, STATES, State
from tracer.state.drift import CounterDrift, CounterRule, KnownDifference, Noted, note, state_rows
from tracer.state.gauges import FULL_STATES, Gauges
from tracer.state.merged import MergedConnections
from tracer.state.samples import Reading, Reconciliation, SocketDump, StateCounts, Totals, entered, left, state_changes

CLOSES = int(State.CLOSE)
SYN_SENT, SYN_RECV = int(State.SYN_SENT), int(State.SYN_RECV)


class Comparison:
    """
    Args:
        merged: the connections, for the events of the last seconds.
        home_netns: number of the namespace.
        rules: the counters that are compared.
        differences: what the kernel shows besides full sockets.
        polling: there are no exact counters; the gauges are those of the last look.

    Attributes:
        last, last_table: the last sample, and the last with a socket table.
        healed: drift of states that was taken over from the kernel, without sign.
        total: drift at the last looks, without sign.
    """

    def __init__(
        self,
        merged: MergedConnections,
        home_netns: int,
        rules: Sequence[CounterRule],
        differences: Sequence[KnownDifference],
        polling: bool = False,
    ) -> None:
        self._merged = merged
        self._home_netns = home_netns
        self._differences = differences
        self._polling = polling
        self._gauges = Gauges()
        self._counters = CounterDrift(() if polling else rules, merged.sees_all)
        self._noted = Noted()
        self._lossy = False
        self._drift: StateCounts = np.zeros(STATES, dtype=np.int64)
        self._sockets: dict[str, int] | None = None
        self._counter_drift = 0
        self._established: dict[str, int] | None = None
        self.last: Reconciliation | None = None
        self.last_table: Reconciliation | None = None
        self.healed = 0

    def fold(self, batch: EventBatch) -> None:
        """Notes what the counters do not tell."""
        self._lossy = self._lossy or bool(batch.lost)
        self._noted += self._note(batch.events)

    def _note(self, events: np.ndarray) -> Noted:
        ends = np.flatnonzero(events["new_state"] == CLOSES)
        old = events["old_state"][ends]
        ends = ends[((old == SYN_SENT) | (old == SYN_RECV)) & (events["netns"][ends] == self._home_netns)]
        return note(take(events, ends)) if len(ends) else Noted()

    def reconcile(self, sample: Reconciliation) -> None:
        """Compares with a sample, all events from before whose end have been folded."""
        if sample.dump is not None:
            events = self._merged.state_events_since(sample.dump.begin_ns - 1_000_000)
            self._drift = self._gauges.observe(sample.dump, None if self._polling else events)
            if self._polling:
                self._drift = np.zeros(STATES, dtype=np.int64)
            self.healed += int(np.abs(self._drift).sum())
            self.last_table = sample
        recent = self._note(self._merged.journal.since(sample.begin_ns - 1_000_000))
        before = Noted(self._noted.no_ports - recent.no_ports, self._noted.failed - recent.failed)
        self._counter_drift = self._counters.observe(sample, before, self._noted, self._lossy)
        self._established = self._compare_established(sample)
        self._sockets = self._compare_sockets(sample)
        self.last = sample

    def _compare_sockets(self, sample: Reconciliation) -> dict[str, int] | None:
        """All full sockets against sockstat: what was born or died while it was read may be in it or not."""
        inuse = sample.inuse()
        if inuse is None or self._polling or self.last_table is None:
            return None
        ours = int(self._gauges.now(sample.after.transitions)[list(FULL_STATES)].sum())
        between = sample.after.transitions - sample.before.transitions
        births = int(left(between)[State.CLOSE] + between[State.LISTEN, State.SYN_RECV])
        deaths = int(entered(between)[State.CLOSE])
        doubt = int(self._gauges.doubt[list(FULL_STATES)].sum())
        low, high = inuse - deaths - doubt, inuse + births + doubt
        drift = max(ours - high, 0) + min(ours - low, 0)
        return {"ours": ours, "kernel": ours - drift, "drift": drift}

    def _compare_established(self, sample: Reconciliation) -> dict[str, int] | None:
        """
        CurrEstab: ESTABLISHED and, since a46d0ea5c942 ("tcp: count CLOSE-WAIT sockets for TCP_MIB_CURRESTAB", v6.10), CLOSE_WAIT. The
        kernel's version does not tell, since the fix was taken into older ones; so the one that fits better counts.
        """
        kernel = sample.snmp.get("CurrEstab")
        if kernel is None or self._polling or self.last_table is None:
            return None
        between = sample.after.transitions - sample.before.transitions
        rows = []
        for states in ([State.ESTABLISHED, State.CLOSE_WAIT], [State.ESTABLISHED]):
            ours = int(self._gauges.now(sample.after.transitions)[states].sum())
            doubt = int(self._gauges.doubt[states].sum())
            most = kernel + doubt + int(entered(between)[states].sum())
            least = kernel - doubt - int(left(between)[states].sum())
            drift = max(ours - most, 0) + min(ours - least, 0)
            rows.append({"ours": ours, "kernel": ours - drift, "drift": drift})
        return min(rows, key=lambda row: abs(row["drift"]))

    @property
    def exact(self) -> bool:
        return not self._polling and bool(self._gauges.exact[list(FULL_STATES)].all())

    @property
    def total(self) -> int:
        others = sum(abs(row["drift"]) for row in (self._sockets, self._established) if row is not None)
        return int(np.abs(self._drift).sum()) + self._counter_drift + others

    def gauges(self, totals: Totals) -> StateCounts | None:
        """Full sockets by state now: shape (STATES,); None before the first look."""
        dump = self._dump
        if dump is None:
            return None
        return dump.counts() if self._polling else self._gauges.now(totals.transitions[0].astype(np.int64))

    @property
    def _dump(self) -> SocketDump | None:
        return self.last_table.dump if self.last_table is not None else None

    def mini_sockets(self) -> dict[str, int | None]:
        """What the kernel shows besides full sockets, by state."""
        if self.last is None or self._dump is None:
            return {}
        shown: dict[str, int | None] = {}
        for difference in self._differences:
            shown |= {STATE_NAMES[state]: count for state, count in difference.shown(self.last, self._dump).items()}
        return shown

    def state_rows(self, reading: Reading | None = None) -> dict[str, dict[str, int]]:
        """By state at the last look at the socket table; empty before it."""
        dump = self._dump
        if dump is None:
            return {}
        now = dump.counts() if self._polling else self._gauges.offsets + state_changes((reading or dump.readings[1]).transitions)
        return state_rows(now + self._drift, self._drift)

    @property
    def counter_rows(self) -> dict[str, dict[str, int | None]]:
        established: dict[str, dict[str, int | None]] = {"CurrEstab": {**self._established}} if self._established is not None else {}
        return self._counters.rows | established

    @property
    def socket_row(self) -> dict[str, int] | None:
        return self._sockets
