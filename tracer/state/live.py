# SPDX-License-Identifier: Apache-2.0
"""
The state of a host's TCP, live or from a recording: one fold over batches, samples of the kernel as data, and pictures.

Pure: what enters is batches, samples and counters, each with its own time, so that the same in the same order gives the same pictures.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tracer.events.batch import EventBatch
from tracer.events.filters import CaptureFilter
from tracer.events.records import take
from tracer.events.schema import STATE_NAMES, STATES, State
from tracer.state.comparison import Comparison
from tracer.state.connections import OPEN_DTYPE, ConnectionArray, ConnectionTable
from tracer.state.counting import distinct
from tracer.state.drift import CounterRule, KnownDifference
from tracer.state.gauges import FULL_STATES
from tracer.state.latency import LatencyHistograms
from tracer.state.merged import MergedConnections
from tracer.state.rates import RATES, RateTable
from tracer.state.samples import Reconciliation, Totals
from tracer.state.snapshot import Drift, SelfUse, Snapshot, TableDrift
from tracer.state.survey import port_usage, top_lists
from tracer.state.tuples import Keys
from tracer.state.waiting import TimeWait

NS = 1_000_000_000
HISTORY_S = 180
EVERYTHING = CaptureFilter()
#: Looking through all open connections takes 1 ms for 20,000; with very many not every picture does it anew.
SURVEYED_AT_ONCE = 50_000


class LiveTotals(Totals, Protocol):
    """The exact counters, and what was not wanted of them."""

    @property
    def filtered(self) -> int: ...
    @property
    def other_protocols(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Subject:
    """
    What a state is of.

    Attributes:
        host, kernel: names.
        hooks: hook -> kind in use.
        home_netns: number of the network namespace that gauges and samples are of.
        started_ns: CLOCK_MONOTONIC when the capture began.
        keep: the capture's filter.
    """

    host: str
    kernel: str
    hooks: Mapping[str, str]
    home_netns: int
    started_ns: int
    keep: CaptureFilter = EVERYTHING

    @property
    def polling(self) -> bool:
        return self.hooks.get("state") == "polling"


class LiveState:
    """
    Args:
        subject: what it is of.
        rules: the kernel's counters that ours are compared with.
        differences: what the kernel shows besides full sockets.
        limit: connections remembered at most.
    """

    def __init__(
        self, subject: Subject, rules: Sequence[CounterRule], differences: Sequence[KnownDifference], limit: int = 1_000_000
    ) -> None:
        self._subject = subject
        self._rates = RateTable(HISTORY_S)
        table = ConnectionTable(limit, sees_accepts=subject.hooks.get("accept", "off") != "off")
        self._merged = MergedConnections(table, subject.keep, subject.home_netns)
        self._comparison = Comparison(self._merged, subject.home_netns, rules, differences, subject.polling)
        self._latency = LatencyHistograms()
        self._survey = Survey()
        self._events = 0
        self._lost: dict[str, int] = {}
        self._now_ns = subject.started_ns
        self._wall_offset_ns = 0
        self._seen_ns = 0
        self._looked_at: ConnectionArray | None = None
        self._complete_s: float | None = None

    def fold(self, batch: EventBatch) -> ConnectionArray:
        """Adds a batch; the connections that ended in it, as ConnectionTable.fold."""
        self._looked_at = None
        self._now_ns, self._wall_offset_ns = batch.now_ns, batch.wall_offset_ns
        for reason, count in batch.lost.items():
            self._lost[reason] = self._lost.get(reason, 0) + count
        self._events += len(batch)
        self._rates.fold(batch)
        self._comparison.fold(batch)
        self._latency.advance(batch.now_ns)
        ended = self._merged.fold(batch)
        if len(ended):
            self._latency.fold(ended, ended=True)
        if len(batch):
            self._seen_ns = max(self._seen_ns, int(batch.events["ts_ns"].max()))
        return ended

    def reconcile(self, sample: Reconciliation) -> Keys:
        """
        Adds a sample; the caller has folded all events from before its end.

        Returns:
            The keys of connections that were added and whose owner is not known.
        """
        self._looked_at = None
        self._comparison.reconcile(sample)
        unowned = self._merged.reconcile(sample)
        self._survey.time_wait = sample.time_wait or self._survey.time_wait
        if sample.dump is not None and sample.dump.owners and self._complete_s is None:
            self._complete_s = round((self._now_ns - self._subject.started_ns) / NS, 3)
        return unowned

    def take(self, totals: LiveTotals, use: SelfUse) -> Snapshot:
        """The picture now: *totals* are the counters at this moment, *use* what tcptrace costs."""
        self._look_at_connections()
        subject, per_second = self._subject, self._rates.per_second()
        return Snapshot(
            time=self._time(self._now_ns),
            host=subject.host,
            kernel=subject.kernel,
            hooks=dict(subject.hooks),
            uptime_s=round((self._now_ns - subject.started_ns) / NS, 3),
            states=self._states(totals),
            mini_sockets=self._comparison.mini_sockets(),
            exact=self._comparison.exact,
            rates=per_second,
            history=dict(zip(RATES, self._rates.counts()[:, :-1].tolist(), strict=True)),
            totals=self._totals(totals),
            retransmits={"total": int(totals.retransmits.sum()), "per_second": per_second["retransmits"]},
            resets={
                "sent": int(totals.resets_sent.sum()),
                "received": int(totals.resets_received.sum()),
                "sent_per_second": per_second["resets_sent"],
                "received_per_second": per_second["resets_received"],
            },
            ports=self._survey.ports,
            top=self._survey.top,
            latency=self._latency.percentiles(),
            namespaces=self._survey.namespaces,
            sockstat=self._comparison.last.sockstat if self._comparison.last is not None else {},
            drift=self._drift(),
            lost=dict(self._lost),
            patterns=[],
            alerts=[],
            use=use,
        )

    def connections(self) -> ConnectionArray:
        """The open connections: shape (n,), OPEN_DTYPE; until the next batch or sample the same array, not to be changed."""
        if self._looked_at is None:
            self._looked_at = self._merged.table.open_connections()
        return self._looked_at

    def remembered(self, socks: npt.NDArray[np.uint64]) -> ConnectionArray:
        """What is known of these sockets' connections, all zero where nothing is: shape of *socks*, OPEN_DTYPE."""
        return self._merged.table.remembered(socks)

    def _time(self, ts_ns: int) -> str:
        return f"{np.datetime_as_string(np.datetime64(ts_ns + self._wall_offset_ns, 'ns'), unit='ns')}Z"

    def _states(self, totals: Totals) -> dict[str, int | None]:
        gauges = self._comparison.gauges(totals)
        if gauges is None:
            return {}
        states: dict[str, int | None] = {STATE_NAMES[state]: int(gauges[state]) for state in FULL_STATES}
        for name, count in self._comparison.mini_sockets().items():
            states[name] = None if count is None else (states.get(name) or 0) + count
        return states

    def _totals(self, totals: LiveTotals) -> dict[str, int]:
        """Since the start, by the exact counters but for `events`, which is what reached us, and what became of the table."""
        return {
            "events": self._events,
            "transitions": int(totals.transitions[0].sum()),
            "transitions_elsewhere": int(totals.transitions[1].sum()),
            "accepts": int(totals.accepts.sum()),
            "other_protocols": totals.other_protocols,
            "filtered": totals.filtered,
            "connections": len(self._merged.table),
            "forgotten": self._merged.table.forgotten,
            "given_up": self._merged.table.given_up,
        }

    def _look_at_connections(self) -> None:
        table = self._merged.table
        if not self._survey.is_due(len(table)):
            return
        connections = self.connections()
        self._latency.fold(connections, ended=False)
        self._latency.added_until(self._seen_ns)
        last = self._comparison.last
        self._survey.look(connections, self._subject.home_netns, last, self._comparison.last_table)

    def _drift(self) -> Drift | None:
        comparison, merged = self._comparison, self._merged
        if comparison.last is None:
            return None
        table = comparison.last_table
        return Drift(
            total=comparison.total,
            time=self._time(comparison.last.end_ns),
            table_time=self._time(table.end_ns) if table is not None else None,
            source=table.dump.source if table is not None and table.dump is not None else None,
            period_s=round(table.period_s, 3) if table is not None else 0.0,
            cost_ratio=round(table.share, 4) if table is not None else 0.0,
            complete_s=self._complete_s,
            states=comparison.state_rows(),
            counters=comparison.counter_rows,
            sockets=comparison.socket_row,
            table=table_drift(merged),
            healed=comparison.healed,
            problems=list((table or comparison.last).problems),
        )


def table_drift(merged: MergedConnections) -> TableDrift | None:
    last, healed = merged.last, merged.healed
    if last is None:
        return None
    return TableDrift(last.ours, last.theirs, last.missing, last.ghosts, healed.missing, healed.ghosts, healed.restated)


class Survey:
    """
    What the open connections have in common, as of the last time that all were looked through.

    Attributes:
        time_wait: what the sockets in TIME_WAIT hold, as of the last sample that told it.
    """

    def __init__(self) -> None:
        self._skipped = 0
        none = np.zeros(0, dtype=OPEN_DTYPE)
        self.top = top_lists(none)
        self.ports = port_usage(none, None)
        self.namespaces: list[dict[str, Any]] = []
        self.time_wait: TimeWait | None = None

    def is_due(self, connections: int) -> bool:
        """Whether to look now: each time, or, with very many connections, some times of many."""
        self._skipped += 1
        if self._skipped * SURVEYED_AT_ONCE < connections:
            return False
        self._skipped = 0
        return True

    def look(self, connections: ConnectionArray, home_netns: int, sample: Reconciliation | None, with_table: Reconciliation | None) -> None:
        """Looks through the connections: shape (n,), OPEN_DTYPE."""
        at_home, elsewhere = parted(connections, connections["netns"] == home_netns)
        self.top = top_lists(connections)
        self.ports = port_usage(at_home, sample.ports if sample is not None else None, self.time_wait)
        self.namespaces = namespace_rows(elsewhere, with_table)


def parted(connections: ConnectionArray, chosen: npt.NDArray[np.bool_]) -> tuple[ConnectionArray, ConnectionArray]:
    """Those chosen, and the others; without a copy where all are."""
    if chosen.all():
        return connections, connections[:0]
    return take(connections, chosen), take(connections, ~chosen)


def namespace_rows(connections: ConnectionArray, sample: Reconciliation | None) -> list[dict[str, Any]]:
    """Other network namespaces: number, name, connections by state as events tell, and as the kernel does where that was asked for."""
    samples = sample.namespaces if sample is not None else {}
    rows = []
    for netns in sorted({*samples, *distinct(connections["netns"])[0].tolist()}):
        found = samples.get(netns)
        counts = np.bincount(connections["state"][connections["netns"] == netns], minlength=STATES)
        row: dict[str, Any] = {"netns": netns, "name": found.name if found is not None else str(netns), "states": by_name(counts)}
        kernel = found.sockets if found is not None else None
        row["kernel"] = by_name(np.bincount(kernel["state"], minlength=STATES)) if kernel is not None else None
        rows.append(row)
    return rows


def by_name(counts: Any) -> dict[str, int]:
    """State name -> how many, of shape (STATES,), without listeners and what there is none of."""
    return {STATE_NAMES[s]: int(counts[s]) for s in FULL_STATES if counts[s] and s != State.LISTEN}
