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
from tracer.events.records import put, take
from tracer.events.schema import EventArray, Flag, Kind
from tracer.state.lives import CLOSE, Lives, of_another_connection
from tracer.state.rows import RowStore


class PidSource(IntEnum):
    """Where a process id comes from: the event's own context, the accept, an earlier event of the connection, or a descriptor scan."""

    NONE = 0
    CONTEXT = 1
    ACCEPT = 2
    CACHED = 3
    FD_SCAN = 4


#: Looking a name of an enumeration up takes longer than comparing a column with it.
ACCEPT = int(Kind.ACCEPT)
HAS_OWNER, OWNER_BY_SCAN = int(Flag.HAS_OWNER), int(Flag.OWNER_BY_SCAN)

OWNER_FIELDS = [("tgid", "<u4"), ("uid", "<u4"), ("cgroup", "<u8"), ("comm", "S16")]

#: What the table remembers of a socket between batches. state 0: no state event seen.
ENTRY_DTYPE = np.dtype([("entered_ns", "<u8"), ("sport", "<u2"), ("dport", "<u2"), ("state", "u1"), ("owned", "?"), *OWNER_FIELDS])

#: What is added to an event. in_state_ns: nanoseconds spent in old_state, -1 where that is not known.
CONTEXT_DTYPE = np.dtype([("in_state_ns", "<i8"), ("pid_source", "u1"), *OWNER_FIELDS])

OWNER_NAMES = [name for name, _ in OWNER_FIELDS]

ContextArray: TypeAlias = npt.NDArray[np.void]


class SocketTable:
    """
    The sockets seen and not closed yet.

    Args:
        limit: sockets remembered at most; beyond it the longest unchanged are forgotten.
    """

    def __init__(self, limit: int = 1_000_000) -> None:
        self._entries = RowStore(ENTRY_DTYPE, "entered_ns", limit)
        self._lossy = False

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def forgotten(self) -> int:
        """How many sockets were, because of the limit."""
        return self._entries.forgotten

    def fold(self, batch: EventBatch) -> ContextArray:
        """
        Adds a batch and tells what is known of each of its events.

        Args:
            batch: n events. After a loss a time in state is given only where the state before is the one that the event leaves, and a
                socket whose ports have changed is taken for another connection, whose owner is not known.

        Returns:
            Shape (n,), CONTEXT_DTYPE, in the order of the events.
        """
        events = batch.events
        self._lossy = self._lossy or bool(batch.lost)
        context = np.zeros(len(events), dtype=CONTEXT_DTYPE)
        if len(events):
            order = np.argsort(events["sock"], kind="stable")
            put(context, order, self._fold_sorted(take(events, order)))
        return context

    def _fold_sorted(self, events: EventArray) -> ContextArray:
        lives = Lives(events, careful=self._lossy)
        carried = np.zeros(len(lives.first), dtype=ENTRY_DTYPE)
        carried[lives.continued] = self._entries.get(lives.socks[lives.continued])
        if self._lossy:
            carried[of_another_connection(take(events, lives.first), carried)] = np.zeros(1, dtype=ENTRY_DTYPE)
        context = np.zeros(len(events), dtype=CONTEXT_DTYPE)
        fill_owners(context, events, lives, carried)
        fill_times(context, events, lives, carried)
        self._store(events, context, lives, carried)
        return context

    def _store(self, events: EventArray, context: ContextArray, lives: Lives, carried: npt.NDArray[np.void]) -> None:
        """Remembers each socket whose last life goes on; forgets those that closed."""
        last_state = lives.last_state_event()
        state = np.where(last_state >= 0, events["new_state"][last_state], carried["state"])
        alive = lives.is_last & (state != 0) & (state != CLOSE)
        self._entries.drop(lives.socks[lives.is_last & ~alive])
        chosen = np.flatnonzero(alive)
        entries = np.zeros(len(chosen), dtype=ENTRY_DTYPE)
        entries["state"] = state[chosen]
        entries["entered_ns"] = np.where(last_state[chosen] >= 0, events["ts_ns"][last_state[chosen]], carried["entered_ns"][chosen])
        entries["sport"] = np.maximum(carried["sport"], np.maximum.reduceat(events["sport"], lives.first))[chosen]
        entries["dport"] = np.maximum(carried["dport"], np.maximum.reduceat(events["dport"], lives.first))[chosen]
        final = take(context, lives.last[chosen])
        entries["owned"] = final["pid_source"] != PidSource.NONE
        for name in OWNER_NAMES:
            entries[name] = final[name]
        self._entries.put(lives.socks[chosen], entries)


def fill_owners(context: ContextArray, events: EventArray, lives: Lives, carried: npt.NDArray[np.void]) -> None:
    """Sets the owner of each event: its own, else the last one stated in the same life, else the remembered one."""
    own = (events["flags"] & HAS_OWNER) != 0
    stated = lives.latest(own)
    remembered = take(carried, lives.of)
    for name in OWNER_NAMES:
        context[name] = np.where(stated >= 0, events[name][stated], remembered[name])
    source = np.where((stated >= 0) | remembered["owned"], PidSource.CACHED, PidSource.NONE)
    direct = np.where(events["kind"] == ACCEPT, PidSource.ACCEPT, PidSource.CONTEXT)
    direct = np.where((events["flags"] & OWNER_BY_SCAN) != 0, PidSource.FD_SCAN, direct)
    context["pid_source"] = np.where(own, direct, source)


def fill_times(context: ContextArray, events: EventArray, lives: Lives, carried: npt.NDArray[np.void]) -> None:
    """Sets the time in the state that each state event leaves, where the event that entered it is known."""
    before = lives.previous_state_event()
    remembered = take(carried, lives.of)
    entered = np.where(before >= 0, events["ts_ns"][before], remembered["entered_ns"]).astype(np.int64)
    state = np.where(before >= 0, events["new_state"][before], remembered["state"])
    known = (state == events["old_state"]) & (state != 0)
    # Two CPUs may take their time stamps in the other order than their places in the ring, by nanoseconds.
    elapsed = np.maximum(events["ts_ns"].astype(np.int64) - entered, 0)
    context["in_state_ns"] = np.where(known, elapsed, -1)
