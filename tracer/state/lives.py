# SPDX-License-Identifier: Apache-2.0
"""
The incarnations of sockets in a batch.

A socket's kernel address is an identity only for one incarnation, which ends at CLOSE and begins at CLOSE->SYN_SENT, CLOSE->LISTEN
or LISTEN->SYN_RECV.
"""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from tracer.events.schema import STATES, EventArray, State

Indices: TypeAlias = npt.NDArray[np.intp]
Mask: TypeAlias = npt.NDArray[np.bool_]

#: Looking a name of an enumeration up takes longer than comparing a column with it.
CLOSE = int(State.CLOSE)


def _birth_table() -> Mask:
    births = np.zeros(STATES * STATES, dtype=np.bool_)
    for old, new in ((State.CLOSE, State.SYN_SENT), (State.CLOSE, State.LISTEN), (State.LISTEN, State.SYN_RECV)):
        births[old * STATES + new] = True
    return births


#: Whether a transition begins an incarnation, by old * STATES + new.
BIRTHS = _birth_table()


class Lives:
    """
    The incarnations in a batch: runs of events that are sorted by socket and, within it, in ring order.

    Attributes:
        first, last: index of the first and last event of each life, shape (lives,).
        socks: kernel address of each life's socket.
        born: the life begins with its birth.
        continued: the life may have begun before the batch.
        is_last: no later life of the same socket is in the batch.
        of: shape (n,), the life of each event.
        dies: shape (n,), the event is the transition to CLOSE.

    Args:
        events: shape (n,), EVENT_DTYPE, sorted by socket, n > 0; both states are 0 where it is no state event.
        careful: ends and births may be missing, so another local or remote port begins a life too.
    """

    def __init__(self, events: EventArray, careful: bool = False) -> None:
        socks = events["sock"].copy()
        dies = events["new_state"] == CLOSE
        born = births(events)
        another = np.ones(len(events), dtype=np.bool_)
        another[1:] = socks[1:] != socks[:-1]
        begins = another | born
        begins[1:] |= dies[:-1]
        if careful:
            begins[1:] |= changes_ports(events)
        self._is_state: Mask = events["new_state"] != 0
        self.dies: Mask = dies
        self.first: Indices = np.flatnonzero(begins)
        self.last: Indices = np.append(self.first[1:], len(events)) - 1
        self.socks = socks[self.first]
        self.born: Mask = born[self.first]
        self.continued: Mask = another[self.first] & ~self.born
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

    def first_of(self, marked: Mask) -> Indices:
        """For each life the first marked event, or -1: shape (lives,)."""
        return self._place(np.flatnonzero(marked)[::-1])

    def last_of(self, marked: Mask) -> Indices:
        """For each life the last marked event, or -1: shape (lives,)."""
        return self._place(np.flatnonzero(marked))

    def _place(self, events: Indices) -> Indices:
        """For each life the last named of its events."""
        placed = np.full(len(self.first), -1)
        placed[self.of[events]] = events
        return placed

    def count(self, marked: Mask) -> Indices:
        """How many events of each life are marked: shape (lives,)."""
        return np.bincount(self.of[marked], minlength=len(self.first))

    def last_state_event(self) -> Indices:
        """For each life its last state event, or -1: shape (lives,)."""
        return self.latest(self._is_state)[self.last]


def of_another_connection(first: EventArray, remembered: npt.NDArray[np.void]) -> Mask:
    """
    Which lives cannot be the ones remembered of their sockets, by their ports: shape (n,).

    Args:
        first: shape (n,), EVENT_DTYPE, the first event of each.
        remembered: shape (n,), with fields sport and dport, 0 where not known.
    """
    other_local = (first["sport"] != remembered["sport"]) & (first["sport"] != 0) & (remembered["sport"] != 0)
    other: Mask = other_local | ((first["dport"] != remembered["dport"]) & (remembered["dport"] != 0))
    return other


def changes_ports(events: EventArray) -> Mask:
    """Which events, from the second on, cannot belong to the connection of the one before: shape (n - 1,)."""
    local, remote = events["sport"], events["dport"]
    other_local = (local[1:] != local[:-1]) & (local[1:] != 0) & (local[:-1] != 0)
    # Before Linux 6.15 the birth of a passive connection has no remote port yet.
    other_remote = (remote[1:] != remote[:-1]) & (remote[:-1] != 0)
    changed: Mask = other_local | other_remote
    return changed


def births(events: EventArray) -> Mask:
    """Which events begin an incarnation: shape (n,)."""
    born: Mask = BIRTHS[events["old_state"] * np.uint8(STATES) | events["new_state"]]
    return born
