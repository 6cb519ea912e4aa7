# SPDX-License-Identifier: Apache-2.0
"""
Connections: from transitions to whole lives.

A fold over batches. A connection that is born and ends within one batch costs no Python-level work; only those that cross the edge
of a batch touch the table.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tracer.events.batch import EventBatch
from tracer.events.records import join, prefix, put, take
from tracer.events.schema import STATES, EventArray, Flag, Kind, State
from tracer.state.adopted import AdoptedConnections
from tracer.state.lives import Indices, Lives, of_another_connection
from tracer.state.outcomes import Direction, Mark, outcomes
from tracer.state.rows import RowStore
from tracer.state.sockets import PidSource

NS = 1_000_000_000

#: What is remembered of a connection that is still open; a time of 0 has not come or was not seen.
OPEN_DTYPE = np.dtype(
    [
        ("opened_ns", "<u8"),
        ("established_ns", "<u8"),
        ("accepted_ns", "<u8"),
        ("seen_ns", "<u8"),
        ("cgroup", "<u8"),
        ("saddr", "V16"),
        ("daddr", "V16"),
        ("comm", "S16"),
        ("netns", "<u4"),
        ("tgid", "<u4"),
        ("uid", "<u4"),
        ("sport", "<u2"),
        ("dport", "<u2"),
        ("retransmits", "<u2"),
        ("state", "u1"),
        ("direction", "u1"),
        ("family", "u1"),
        ("pid_source", "u1"),
        ("marks", "u1"),
        ("incomplete", "u1"),
    ]
)

#: A connection that has ended. bytes_sent and bytes_received are what the applications sent, without SYN and FIN. Aligned: a
#: fold takes 5 % less so; what pads a record means nothing.
ENDED_DTYPE = np.dtype(
    [
        *OPEN_DTYPE.descr,
        ("sock", "<u8"),
        ("closed_ns", "<u8"),
        ("bytes_sent", "<u8"),
        ("bytes_received", "<u8"),
        ("segs_retrans", "<u4"),
        ("srtt_us", "<u4"),
        ("error", "<u2"),
        ("outcome", "u1"),
    ],
    align=True,
)

OWNER_NAMES = ("tgid", "uid", "cgroup", "comm")

#: Looking a name of an enumeration up takes longer than comparing a column with it.
ESTABLISHED, LISTEN = int(State.ESTABLISHED), int(State.LISTEN)
ACCEPT = int(Kind.ACCEPT)
HAS_OWNER, OWNER_BY_SCAN = int(Flag.HAS_OWNER), int(Flag.OWNER_BY_SCAN)

#: Direction by the state that a life begins with.
DIRECTION_OF_BIRTH = np.zeros(STATES, dtype=np.uint8)
DIRECTION_OF_BIRTH[State.SYN_SENT], DIRECTION_OF_BIRTH[State.SYN_RECV] = Direction.ACTIVE, Direction.PASSIVE

ConnectionArray = npt.NDArray[np.void]


@dataclass(frozen=True, slots=True)
class Clues:
    """Per life of a batch the index of what tells something, or -1: shape (lives,) each."""

    established: Indices
    accepted: Indices
    stated: Indices
    placed: Indices
    state: Indices


class ConnectionTable:
    """
    The open connections.

    Args:
        limit: connections remembered at most; beyond it the longest silent are forgotten.
        sees_accepts: an accept hook is in use, so that a connection without an accept was really not accepted.
        patience_s: after a loss, a connection that may have ended unseen is given up when it is silent for so long.

    Attributes:
        given_up: how many were.
        adopted: connections that the kernel's table shows and no event has yet; the first event of one moves it among the others.
    """

    def __init__(self, limit: int = 1_000_000, sees_accepts: bool = True, patience_s: float = 900.0) -> None:
        self._open = RowStore(OPEN_DTYPE, "seen_ns", limit)
        self.adopted = AdoptedConnections(OPEN_DTYPE, limit)
        self._sees_accepts = sees_accepts
        self._patience_ns = int(patience_s * NS)
        self._lossy = False
        self._next_sweep_ns = 0
        self.given_up = 0

    def __len__(self) -> int:
        return len(self._open) + len(self.adopted)

    @property
    def forgotten(self) -> int:
        """How many were, because of the limit."""
        return self._open.forgotten + self.adopted.forgotten

    def fold(self, batch: EventBatch) -> ConnectionArray:
        """
        Adds a batch.

        Args:
            batch: n events; listeners are left out of the table.

        Returns:
            Shape (m,), ENDED_DTYPE: the connections that ended in it, in the order of their ends. After a loss all that were open are
            marked incomplete; what may have been mixed up with a socket of another connection is left out.
        """
        if batch.lost:
            self._lose()
        if self._lossy:
            self._sweep(batch.now_ns)
        if not len(batch):
            return np.zeros(0, dtype=ENDED_DTYPE)
        events = take(batch.events, np.argsort(batch.events["sock"], kind="stable"))
        lives = Lives(events, careful=self._lossy)
        return self._settle(events, lives, self._summarize(events, lives, bool(batch.lost)))

    def _summarize(self, events: EventArray, lives: Lives, lossy: bool) -> ConnectionArray:
        """What is known of each life by the end of the batch: shape (lives,), ENDED_DTYPE without the fields of the end."""
        summary = np.zeros(len(lives.first), dtype=ENDED_DTYPE)
        carried = np.flatnonzero(lives.continued)
        put(prefix(summary, OPEN_DTYPE), carried, self._carried(events, lives, carried))
        clues = find_clues(events, lives)
        born = np.flatnonzero(lives.born)
        first = lives.first[born]
        summary["opened_ns"][born] = events["ts_ns"][first]
        summary["direction"][born] = DIRECTION_OF_BIRTH[events["new_state"][first]]
        summary["direction"][clues.accepted >= 0] = Direction.PASSIVE
        set_from(summary, "established_ns", events, "ts_ns", clues.established)
        set_from(summary, "accepted_ns", events, "ts_ns", clues.accepted)
        set_from(summary, "state", events, "new_state", clues.state)
        set_all_from(summary, ("saddr", "daddr", "sport", "dport", "netns", "family"), events, clues.placed)
        self._set_owner(summary, events, clues)
        summary["seen_ns"] = events["ts_ns"][lives.last]
        count_segments(summary, events, lives)
        summary["incomplete"] |= ((summary["opened_ns"] == 0) | lossy).astype(np.uint8)
        return summary

    def _carried(self, events: EventArray, lives: Lives, chosen: Indices) -> ConnectionArray:
        """What is remembered of the chosen lives; nothing, where a loss lets another connection have the same socket."""
        carried = self._open.get(lives.socks[chosen])
        if self._lossy:
            other = of_another_connection(take(events, lives.first[chosen]), carried)
            carried[other] = np.zeros(1, dtype=OPEN_DTYPE)
        if len(self.adopted):
            self.adopted.fill(carried, events, lives.first[chosen])
        return carried

    @staticmethod
    def _set_owner(summary: ConnectionArray, events: EventArray, clues: Clues) -> None:
        """The accepting task, or the first that is stated: who opens a connection owns it, whoever closes it."""
        unknown = summary["pid_source"] == PidSource.NONE
        accepted = clues.accepted >= 0
        chosen = np.where(accepted, clues.accepted, np.where(unknown, clues.stated, -1))
        set_all_from(summary, OWNER_NAMES, events, chosen)
        scanned = (events["flags"][chosen] & OWNER_BY_SCAN) != 0
        source = np.where(accepted, PidSource.ACCEPT, np.where(scanned, PidSource.FD_SCAN, PidSource.CONTEXT))
        np.copyto(summary["pid_source"], source.astype(np.uint8), where=chosen >= 0)

    def _settle(self, events: EventArray, lives: Lives, summary: ConnectionArray) -> ConnectionArray:
        """Keeps the lives that go on, forgets the others, and returns the connections among those that ended."""
        ended = lives.dies[lives.last]
        listens = (summary["state"] == LISTEN) | (ended & (events["old_state"][lives.last] == LISTEN))
        alive = lives.is_last & ~ended & ~listens & (summary["state"] != 0)
        self._open.drop(lives.socks[lives.is_last & ~alive])
        kept = np.flatnonzero(alive)
        self._open.put(lives.socks[kept], take(prefix(summary, OPEN_DTYPE), kept))
        chosen = np.flatnonzero(ended & ~listens)
        chosen = chosen[np.argsort(events["ts_ns"][lives.last[chosen]], kind="stable")]
        return self._finish(take(events, lives.last[chosen]), lives.socks[chosen], take(summary, chosen))

    def _finish(self, last: EventArray, socks: npt.NDArray[np.uint64], connections: ConnectionArray) -> ConnectionArray:
        """Ended connections, from what is known of them and their last events; all of shape (m,)."""
        connections["sock"] = socks
        connections["closed_ns"] = last["ts_ns"]
        for name in ("bytes_received", "segs_retrans", "srtt_us", "error"):
            connections[name] = last[name]
        # The SYN of an active open is among the acknowledged bytes.
        syn = (connections["direction"] == Direction.ACTIVE) & (last["bytes_sent"] > 0)
        connections["bytes_sent"] = last["bytes_sent"] - syn
        connections["outcome"] = outcomes(last, connections, self._sees_accepts)
        return connections

    def remembered(self, socks: npt.NDArray[np.uint64]) -> ConnectionArray:
        """The open connections of these sockets, all zero where there is none: shape of *socks*, OPEN_DTYPE."""
        return self._open.get(socks)

    def open_connections(self) -> ConnectionArray:
        """The connections that are open now: shape (len(self),), OPEN_DTYPE, a copy."""
        return join([take(self._open.records, self._open.rows()), self.adopted.records()])

    @property
    def store(self) -> RowStore:
        """The connections that events have shown, by kernel address: for tracer/state/healing.py, which compares it with the kernel."""
        return self._open

    def confirm(self, rows: Indices, ns: int) -> None:
        """Says that the connections in these rows of *store* were there at a time: after a loss they are not given up for their silence."""
        if self._lossy:
            self._open.records["seen_ns"][rows] = np.maximum(self._open.records["seen_ns"][rows], np.uint64(ns))

    def _lose(self) -> None:
        self._lossy = True
        self._open.records["incomplete"] = 1

    def _sweep(self, now_ns: int) -> None:
        """Gives up connections whose end was lost, if they were silent for long: now and then, since it looks at all of them."""
        if now_ns < self._next_sweep_ns:
            return
        self._next_sweep_ns = now_ns + self._patience_ns // 10
        silent = self._open.select(
            (self._open.records["incomplete"] != 0) & (self._open.records["seen_ns"].astype(np.int64) < now_ns - self._patience_ns)
        )
        self._open.drop(silent)
        self.given_up += len(silent)


def find_clues(events: EventArray, lives: Lives) -> Clues:
    """Where in each life the things stand that a connection is described by."""
    born = np.where(lives.born, lives.first, -1)
    return Clues(
        established=lives.first_of(events["new_state"] == ESTABLISHED),
        accepted=lives.last_of(events["kind"] == ACCEPT),
        stated=lives.first_of((events["flags"] & HAS_OWNER) != 0),
        # Before Linux 6.15 the birth of a passive connection has no remote end yet; SYN_SENT has no local port.
        placed=np.maximum(lives.last_of((events["sport"] != 0) & (events["dport"] != 0)), born),
        state=lives.last_of(events["new_state"] != 0),
    )


def count_segments(summary: ConnectionArray, events: EventArray, lives: Lives) -> None:
    """Adds the retransmits and resets of each life; in most batches there is none."""
    kinds = events["kind"]
    if (kinds > ACCEPT).any():
        summary["retransmits"] += lives.count(kinds == Kind.RETRANSMIT).astype(np.uint16)
        for mark, kind in ((Mark.RESET_SENT, Kind.RESET_SENT), (Mark.RESET_RECEIVED, Kind.RESET_RECEIVED)):
            summary["marks"] |= np.where(lives.last_of(kinds == kind) >= 0, np.uint8(mark), np.uint8(0))


def set_from(target: ConnectionArray, name: str, events: EventArray, column: str, index: Indices) -> None:
    """Sets a field from the event at each index that is not -1; both of shape (lives,)."""
    known = index >= 0
    target[name][known] = events[column][index[known]]


def set_all_from(target: ConnectionArray, names: Sequence[str], events: EventArray, index: Indices) -> None:
    """The same for fields that have the same name in both."""
    known = np.flatnonzero(index >= 0)
    source = index[known]
    for name in names:
        target[name][known] = events[name][source]
