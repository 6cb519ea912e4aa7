# SPDX-License-Identifier: Apache-2.0
"""
What is known of each socket beyond a single event: its owner, and since when it has been in its state.

A fold over batches. A socket's kernel address is an identity only for one incarnation, which ends at CLOSE and begins at
CLOSE->SYN_SENT, CLOSE->LISTEN or LISTEN->SYN_RECV. Within a batch everything is vectorised; only sockets whose life crosses
the edge of a batch touch the dictionary.
"""

from enum import IntEnum
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from tracer.events.batch import EventBatch
from tracer.events.schema import EventArray, Flag, Kind, State


class PidSource(IntEnum):
    """Where a process id comes from: the event's own context, the accept, an earlier event of the connection, or a descriptor scan."""

    NONE = 0
    CONTEXT = 1
    ACCEPT = 2
    CACHED = 3
    FD_SCAN = 4


OWNER_FIELDS = [("tgid", "<u4"), ("uid", "<u4"), ("cgroup", "<u8"), ("comm", "S16")]

#: What the table remembers of a socket between batches. state 0: no state event seen.
ENTRY_DTYPE = np.dtype([("entered_ns", "<u8"), ("state", "u1"), ("owned", "?"), *OWNER_FIELDS])

#: What is added to an event. in_state_ns: nanoseconds spent in old_state, -1 where that is not known.
CONTEXT_DTYPE = np.dtype([("in_state_ns", "<i8"), ("pid_source", "u1"), *OWNER_FIELDS])

OWNER_NAMES = [name for name, _ in OWNER_FIELDS]

ContextArray: TypeAlias = npt.NDArray[np.void]
Indices: TypeAlias = npt.NDArray[np.intp]
Mask: TypeAlias = npt.NDArray[np.bool_]


class SocketTable:
    """
    The sockets seen and not closed yet.

    Args:
        limit: sockets remembered at most; beyond it the longest unchanged are forgotten.

    Attributes:
        forgotten: how many were.
    """

    def __init__(self, limit: int = 1_000_000) -> None:
        self._limit = limit
        self._rows: dict[int, int] = {}
        self._free: list[int] = []
        self._entries = np.zeros(64, dtype=ENTRY_DTYPE)
        self.forgotten = 0

    def __len__(self) -> int:
        return len(self._rows)

    def fold(self, batch: EventBatch) -> ContextArray:
        """
        Adds a batch and tells what is known of each of its events.

        Args:
            batch: n events. After a loss nothing is assumed of the sockets in it: a time in state is given only where the state before
                is the one that the event leaves.

        Returns:
            Shape (n,), CONTEXT_DTYPE, in the order of the events.
        """
        events = batch.events
        context = np.zeros(len(events), dtype=CONTEXT_DTYPE)
        if len(events):
            order = np.argsort(events["sock"], kind="stable")
            context[order] = self._fold_sorted(events[order])
        return context

    def _fold_sorted(self, events: EventArray) -> ContextArray:
        lives = Lives(events)
        carried = self._carried(lives)
        context = np.zeros(len(events), dtype=CONTEXT_DTYPE)
        fill_owners(context, events, lives, carried)
        fill_times(context, events, lives, carried)
        self._store(events, context, lives, carried)
        return context

    def _carried(self, lives: "Lives") -> npt.NDArray[np.void]:
        """What is remembered of the socket of each life, all zero for a new one: shape (lives,), ENTRY_DTYPE."""
        carried = np.zeros(len(lives.first), dtype=ENTRY_DTYPE)
        old = np.flatnonzero(lives.continued)
        rows = [self._rows.get(sock, -1) for sock in lives.socks[old].tolist()]
        found = np.array(rows, dtype=np.intp)
        carried[old[found >= 0]] = self._entries[found[found >= 0]]
        return carried

    def _store(self, events: EventArray, context: ContextArray, lives: "Lives", carried: npt.NDArray[np.void]) -> None:
        """Remembers each socket whose last life goes on; forgets those that closed."""
        last_state = lives.last_state_event()
        state = np.where(last_state >= 0, events["new_state"][last_state], carried["state"])
        known = (last_state >= 0) | (carried["state"] != 0)
        alive = lives.is_last & known & (state != State.CLOSE)
        for sock in lives.socks[lives.is_last & ~alive].tolist():
            row = self._rows.pop(sock, None)
            if row is not None:
                self._free.append(row)
        chosen = np.flatnonzero(alive)
        if not len(chosen):
            return
        rows = self._rows_for(lives.socks[chosen].tolist())
        entries = np.zeros(len(chosen), dtype=ENTRY_DTYPE)
        entries["state"] = state[chosen]
        entries["entered_ns"] = np.where(last_state[chosen] >= 0, events["ts_ns"][last_state[chosen]], carried["entered_ns"][chosen])
        final = context[lives.last[chosen]]
        entries["owned"] = final["pid_source"] != PidSource.NONE
        for name in OWNER_NAMES:
            entries[name] = final[name]
        self._entries[rows] = entries
        self._forget_oldest()

    def _rows_for(self, socks: list[int]) -> Indices:
        """A row for each socket, its own or a new one; touched sockets become the youngest."""
        rows = np.empty(len(socks), dtype=np.intp)
        for i, sock in enumerate(socks):
            row = self._rows.pop(sock, -1)
            if row < 0:
                row = self._free.pop() if self._free else len(self._rows)
            self._rows[sock] = rows[i] = row
        needed = int(rows.max()) + 1
        if needed > len(self._entries):
            size = max(needed, 2 * len(self._entries))
            self._entries = np.concatenate([self._entries, np.zeros(size - len(self._entries), dtype=ENTRY_DTYPE)])
        return rows

    def _forget_oldest(self) -> None:
        while len(self._rows) > self._limit:
            self._free.append(self._rows.pop(next(iter(self._rows))))
            self.forgotten += 1


class Lives:
    """
    The incarnations in a batch: runs of events that are sorted by socket and, within it, in ring order.

    Attributes:
        first, last: index of the first and last event of each life, shape (lives,).
        socks: kernel address of each life's socket.
        continued: the life may have begun before the batch.
        is_last: no later life of the same socket is in the batch.
        of: shape (n,), the life of each event.
    """

    def __init__(self, events: EventArray) -> None:
        socks = events["sock"]
        is_state = events["kind"] == Kind.STATE
        dies = is_state & (events["new_state"] == State.CLOSE)
        another = np.ones(len(events), dtype=np.bool_)
        another[1:] = socks[1:] != socks[:-1]
        begins = another | births(events)
        begins[1:] |= dies[:-1]
        self._is_state = is_state
        self.first: Indices = np.flatnonzero(begins)
        self.last: Indices = np.append(self.first[1:], len(events)) - 1
        self.socks = socks[self.first]
        self.continued: Mask = another[self.first] & ~births(events)[self.first]
        self.is_last: Mask = np.append(self.socks[1:] != self.socks[:-1], True)
        self.of: Indices = np.cumsum(begins) - 1

    def latest(self, marked: Mask) -> Indices:
        """For each event the last marked one up to it in the same life, itself included, or -1: shape (n,)."""
        index = np.maximum.accumulate(np.where(marked, np.arange(len(marked)), -1))
        return np.where(index >= self.first[self.of], index, -1)

    def previous_state_event(self) -> Indices:
        """For each event the last state event before it in the same life, or -1: shape (n,)."""
        before = np.empty(len(self.of), dtype=np.intp)
        before[0] = -1
        before[1:] = np.maximum.accumulate(np.where(self._is_state, np.arange(len(self.of)), -1))[:-1]
        return np.where(before >= self.first[self.of], before, -1)

    def last_state_event(self) -> Indices:
        """For each life its last state event, or -1: shape (lives,)."""
        return self.latest(self._is_state)[self.last]


def births(events: EventArray) -> Mask:
    """Which events begin an incarnation: shape (n,)."""
    old, new = events["old_state"], events["new_state"]
    opened = (old == State.CLOSE) & ((new == State.SYN_SENT) | (new == State.LISTEN))
    cloned = (old == State.LISTEN) & (new == State.SYN_RECV)
    born: Mask = (events["kind"] == Kind.STATE) & (opened | cloned)
    return born


def fill_owners(context: ContextArray, events: EventArray, lives: Lives, carried: npt.NDArray[np.void]) -> None:
    """Sets the owner of each event: its own, else the last one stated in the same life, else the remembered one."""
    own = (events["flags"] & Flag.HAS_OWNER) != 0
    stated = lives.latest(own)
    remembered = carried[lives.of]
    for name in OWNER_NAMES:
        context[name] = np.where(stated >= 0, events[name][stated], remembered[name])
    source = np.where((stated >= 0) | remembered["owned"], PidSource.CACHED, PidSource.NONE)
    direct = np.where(events["kind"] == Kind.ACCEPT, PidSource.ACCEPT, PidSource.CONTEXT)
    direct = np.where((events["flags"] & Flag.OWNER_BY_SCAN) != 0, PidSource.FD_SCAN, direct)
    context["pid_source"] = np.where(own, direct, source)


def fill_times(context: ContextArray, events: EventArray, lives: Lives, carried: npt.NDArray[np.void]) -> None:
    """Sets the time in the state that each state event leaves, where the event that entered it is known."""
    before = lives.previous_state_event()
    remembered = carried[lives.of]
    entered = np.where(before >= 0, events["ts_ns"][before], remembered["entered_ns"]).astype(np.int64)
    state = np.where(before >= 0, events["new_state"][before], remembered["state"])
    known = (events["kind"] == Kind.STATE) & (state == events["old_state"]) & (state != 0)
    # Two CPUs may take their time stamps in the other order than their places in the ring, by nanoseconds.
    elapsed = np.maximum(events["ts_ns"].astype(np.int64) - entered, 0)
    context["in_state_ns"] = np.where(known, elapsed, -1)
