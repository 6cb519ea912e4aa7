# SPDX-License-Identifier: Apache-2.0
"""What happened last: failures, ended connections and events, and who opens, closes and fails most."""

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tracer.events.addresses import address_text
from tracer.events.batch import EventBatch
from tracer.events.records import take
from tracer.events.schema import EVENT_DTYPE, EventArray
from tracer.state.connections import ENDED_DTYPE, ConnectionArray
from tracer.state.outcomes import Outcome
from tracer.state.sockets import PidSource

#: Ended connections and events that are kept.
KEPT = 2000
FAILURES = 200
#: Counts by owner, port and address are of the last so many slots of so many seconds.
SLOTS, SLOT_S = 6, 10
NS = 1_000_000_000
LISTS = ("processes", "local_ports", "remote_addresses")

#: A connection with such an outcome did not do what it was opened for.
FAILED = (
    Outcome.ERROR,
    Outcome.RESET_RECEIVED,
    Outcome.REFUSED,
    Outcome.TIMEOUT,
    Outcome.UNREACHABLE,
    Outcome.NO_PORTS,
    Outcome.ABORTED_IN_QUEUE,
)
IS_FAILED = np.zeros(256, dtype=np.bool_)
IS_FAILED[[int(outcome) for outcome in FAILED]] = True


@dataclass(frozen=True, slots=True)
class Failure:
    """
    Failed connections of one kind in a row.

    Attributes:
        ts_ns: when the last one ended, CLOCK_MONOTONIC.
        comm, pid: the owner; "" and 0 where it is not known.
        address, port: the remote end.
        outcome: name, as in the connection object.
        count: how many.
    """

    ts_ns: int
    comm: str
    pid: int
    address: str
    port: int
    outcome: str
    count: int = 1

    @property
    def kind(self) -> tuple[str, int, str, int, str]:
        return self.comm, self.pid, self.address, self.port, self.outcome


@dataclass(slots=True)
class Slot:
    """Ended connections and failures of some seconds, by list of LISTS."""

    number: int
    ended: dict[str, Counter[str]] = field(default_factory=lambda: {name: Counter() for name in LISTS})
    failed: dict[str, Counter[str]] = field(default_factory=lambda: {name: Counter() for name in LISTS})


class Recent:
    """A fold over batches and the connections that ended in them."""

    def __init__(self) -> None:
        self._ended: deque[ConnectionArray] = deque()
        self._events: deque[EventArray] = deque()
        self._failures: deque[Failure] = deque(maxlen=FAILURES)
        self._slots: deque[Slot] = deque(maxlen=SLOTS)

    def fold(self, batch: EventBatch, ended: ConnectionArray) -> None:
        """Adds a batch: *ended* of shape (m,), ENDED_DTYPE, the connections that ended in it."""
        _keep(self._events, batch.events)
        slot = self._slot(batch.now_ns)
        if not len(ended):
            return
        _keep(self._ended, ended)
        _count(slot.ended, ended)
        failed = take(ended, IS_FAILED[ended["outcome"]])
        if len(failed):
            _count(slot.failed, failed)
            self._remember(failed[-FAILURES:])

    def _slot(self, now_ns: int) -> Slot:
        number = now_ns // (SLOT_S * NS)
        if not self._slots or self._slots[-1].number != number:
            self._slots.append(Slot(number))
        return self._slots[-1]

    def _remember(self, failed: ConnectionArray) -> None:
        for failure in map(failure_of, failed):
            last = self._failures[-1] if self._failures else None
            if last is not None and last.kind == failure.kind:
                self._failures[-1] = Failure(failure.ts_ns, *failure.kind, last.count + 1)
            else:
                self._failures.append(failure)

    def failures(self) -> list[Failure]:
        """The latest first."""
        return list(reversed(self._failures))

    def ended(self) -> ConnectionArray:
        """The last ended connections, oldest first: shape (n,), ENDED_DTYPE."""
        return np.concatenate(self._ended) if self._ended else np.zeros(0, dtype=ENDED_DTYPE)

    def events(self) -> EventArray:
        """The last events, oldest first: shape (n,), EVENT_DTYPE."""
        return np.concatenate(self._events) if self._events else np.zeros(0, dtype=EVENT_DTYPE)

    def top(self, now_ns: int, failed: bool, limit: int) -> dict[str, list[tuple[str, int]]]:
        """By list of LISTS the names with the most ended, or failed, connections of the last minute, each with its count."""
        oldest = now_ns // (SLOT_S * NS) - SLOTS
        slots = [slot for slot in self._slots if slot.number > oldest]
        totals: dict[str, Counter[str]] = {name: Counter() for name in LISTS}
        for slot in slots:
            for name, counts in (slot.failed if failed else slot.ended).items():
                totals[name].update(counts)
        return {name: counts.most_common(limit) for name, counts in totals.items()}


def _keep(parts: deque[npt.NDArray[np.void]], new: npt.NDArray[np.void]) -> None:
    """Appends the last of *new*, and drops whole old parts as long as enough is left."""
    if not len(new):
        return
    parts.append(take(new, slice(-KEPT, None)).copy())
    while sum(map(len, parts)) - len(parts[0]) >= KEPT:
        parts.popleft()


def _count(counters: dict[str, Counter[str]], connections: ConnectionArray) -> None:
    owned = take(connections, connections["pid_source"] != PidSource.NONE)
    for pid, first, count in _tallied(owned["tgid"]):
        counters["processes"][process_text(bytes(owned["comm"][first]), int(pid))] += count
    for port, _, count in _tallied(connections["sport"]):
        counters["local_ports"][str(port)] += count
    halves = np.ascontiguousarray(connections["daddr"]).view("<u8").reshape(-1, 2)
    for _, first, count in _tallied(halves[:, 0] * np.uint64(0x9E3779B97F4A7C15) ^ halves[:, 1]):
        counters["remote_addresses"][address_text(connections["daddr"][first].tobytes())] += count
    for counts in counters.values():
        _bound(counts)


def _bound(counts: Counter[str], limit: int = 4096) -> None:
    """Ephemeral ports come in tens of thousands; the rarest are of no interest."""
    if len(counts) > limit:
        kept = counts.most_common(limit // 4)
        counts.clear()
        counts.update(dict(kept))


def _tallied(values: npt.NDArray[np.integer]) -> Sequence[tuple[int, int, int]]:
    """Each value, where it first occurs, and how often."""
    found, first, counts = np.unique(values, return_index=True, return_counts=True)
    return list(zip(found.tolist(), first.tolist(), counts.tolist(), strict=True))


def process_text(comm: bytes, pid: int) -> str:
    return f"{comm.decode(errors='backslashreplace')}[{pid}]"


def failure_of(connection: np.void) -> Failure:
    owned = connection["pid_source"] != PidSource.NONE
    return Failure(
        int(connection["closed_ns"]),
        bytes(connection["comm"]).decode(errors="backslashreplace") if owned else "",
        int(connection["tgid"]) if owned else 0,
        address_text(connection["daddr"].tobytes()),
        int(connection["dport"]),
        Outcome(int(connection["outcome"])).name.lower(),
    )
