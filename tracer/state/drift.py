# SPDX-License-Identifier: Apache-2.0
"""
Our counts against the kernel's own counters.

Both only ever grow, and both count the same, so that their difference is the constant that the kernel had counted before us. It is
known by intervals (tracer/state/gauges.py); a sample that does not agree with it is drift.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tracer.events.schema import EventArray, State
from tracer.state.gauges import FULL_STATES, Offsets
from tracer.state.samples import Reading, Reconciliation, SocketDump, StateCounts


@dataclass(frozen=True, slots=True)
class Noted:
    """
    What events tell and the counters do not, of the home network namespace since the start; a lower bound after a loss.

    Attributes:
        no_ports: connects that found no local port.
        failed: connects and handshakes that ended by an error.
    """

    no_ports: int = 0
    failed: int = 0

    def __add__(self, other: "Noted") -> "Noted":
        return Noted(self.no_ports + other.no_ports, self.failed + other.failed)


def note(events: EventArray) -> Noted:
    """What the events of one namespace tell: *events* of shape (n,), EVENT_DTYPE."""
    old = events["old_state"]
    ends = events[(events["new_state"] == State.CLOSE) & ((old == State.SYN_SENT) | (old == State.SYN_RECV))]
    no_ports = (ends["old_state"] == State.SYN_SENT) & (ends["sport"] == 0)
    return Noted(int(no_ports.sum()), int((~no_ports & (ends["error"] != 0)).sum()))


@dataclass(frozen=True, slots=True)
class CounterRule:
    """
    How one of the kernel's counters compares with ours.

    Attributes:
        name: of the kernel's counter.
        ours: the same from our counters and events; None: we see nothing of it, and the kernel's number is shown alone.
        reason: why they are equal, or what the kernel counts besides.
        source: where that stands.
        may_exceed: the kernel may count more than we do, never less.
        by_events: ours depends on events, so that it is a lower bound after a loss, and not known under a filter.
    """

    name: str
    ours: Callable[[Reading, Noted], int] | None
    reason: str
    source: str
    may_exceed: bool = False
    by_events: bool = False


@dataclass(frozen=True, slots=True)
class KnownDifference:
    """
    Sockets that the kernel shows in a state in which no full socket is.

    Attributes:
        name: of the rule.
        shown: state -> how many, by a sample and the last dump; None: it cannot be told.
        reason, source: why, and where that stands.
    """

    name: str
    shown: Callable[[Reconciliation, SocketDump], Mapping[State, int | None]]
    reason: str
    source: str


class CounterDrift:
    """
    Args:
        rules: what is compared.
        sees_all: the events of the whole home namespace reach us, so that what depends on them can be compared.

    Attributes:
        rows: by counter: ours and the kernel's since the capture began, and the drift, ours minus the kernel's, at the last sample; None
            where there is no such number.
    """

    def __init__(self, rules: Sequence[CounterRule], sees_all: bool) -> None:
        self._rules = rules
        self._sees_all = sees_all
        self._offsets: dict[str, Offsets] = {}
        self._base: dict[str, int] = {}
        self.rows: dict[str, dict[str, int | None]] = {}

    def observe(self, sample: Reconciliation, before: Noted, after: Noted, lossy: bool) -> int:
        """
        Compares with a sample.

        Args:
            sample: the kernel's counters, and our readings around them.
            before: what events had told by the time of the first reading.
            after: the same of the second.
            lossy: events have been lost.

        Returns:
            The sum of all drift, without sign.
        """
        self.rows = {}
        for rule in self._rules:
            kernel = sample.snmp.get(rule.name)
            if kernel is None:
                continue
            if rule.ours is None or (rule.by_events and not self._sees_all):
                base = self._base.setdefault(rule.name, kernel)
                self.rows[rule.name] = {"ours": None, "kernel": kernel - base, "drift": None}
            else:
                first, second = rule.ours(sample.before, before), rule.ours(sample.after, after)
                unequal = rule.may_exceed or (rule.by_events and lossy)
                self.rows[rule.name] = self._compare(rule.name, kernel, min(first, second), max(first, second), unequal)
        return sum(abs(row["drift"] or 0) for row in self.rows.values())

    def _compare(self, name: str, kernel: int, least: int, most: int, unequal: bool) -> dict[str, int | None]:
        """A counter whose value of ours lay between the two when the kernel's was read."""
        offsets = self._offsets.setdefault(name, Offsets(1))
        known, base = offsets.known, int(offsets.value[0])
        drift = int(offsets.observe(np.array([kernel - most]), np.array([kernel - least]))[0])
        if unequal:
            drift = max(drift, 0)
            base = self._base.setdefault(name, int(offsets.value[0]))
        elif not known or not drift:
            base = int(offsets.value[0])
        return {"ours": most, "kernel": kernel - base, "drift": drift}


def state_rows(ours: StateCounts, drift: StateCounts) -> dict[str, dict[str, int]]:
    """By state: ours, the kernel's and the drift, of full sockets; *ours* and *drift* of shape (STATES,)."""
    return {s.name: {"ours": int(ours[s]), "kernel": int(ours[s] - drift[s]), "drift": int(drift[s])} for s in FULL_STATES}
