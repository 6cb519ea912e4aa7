# SPDX-License-Identifier: Apache-2.0
"""
Connections: from transitions to whole lives.

A fold over batches. A connection that is born and ends within one batch costs no Python-level work; only those that cross the edge
of a batch touch the table.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tracer.events.batch import EventBatch
from tracer.events.schema import EventArray, Flag, Kind, State
from tracer.state.lives import Indices, Lives, Mask, births, of_another_connection
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

#: A connection that has ended. bytes_sent and bytes_received are what the applications sent, without SYN and FIN.
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
    ]
)

OPEN_NAMES = OPEN_DTYPE.names or ()
OWNER_NAMES = ("tgid", "uid", "cgroup", "comm")

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
    """

    def __init__(self, limit: int = 1_000_000, sees_accepts: bool = True, patience_s: float = 900.0) -> None:
        self._open = RowStore(OPEN_DTYPE, "seen_ns", limit)
        self._sees_accepts = sees_accepts
        self._patience_ns = int(patience_s * NS)
        self._lossy = False
        self._next_sweep_ns = 0
        self.given_up = 0

    def __len__(self) -> int:
        return len(self._open)

    @property
    def forgotten(self) -> int:
        """How many were, because of the limit."""
        return self._open.forgotten

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
        events = batch.events[np.argsort(batch.events["sock"], kind="stable")]
        lives = Lives(events, careful=self._lossy)
        return self._settle(events, lives, self._summarize(events, lives, bool(batch.lost)))

    def _summarize(self, events: EventArray, lives: Lives, lossy: bool) -> ConnectionArray:
        """What is known of each life by the end of the batch: shape (lives,), OPEN_DTYPE."""
        summary = np.zeros(len(lives.first), dtype=OPEN_DTYPE)
        summary[lives.continued] = self._carried(events, lives)
        clues = find_clues(events, lives)
        born = births(events)[lives.first]
        first = events[lives.first]
        set_where(summary["opened_ns"], born, first["ts_ns"])
        active = born & (first["new_state"] == State.SYN_SENT)
        passive = (born & (first["new_state"] == State.SYN_RECV)) | (clues.accepted >= 0)
        set_where(summary["direction"], passive, np.uint8(Direction.PASSIVE))
        set_where(summary["direction"], active, np.uint8(Direction.ACTIVE))
        set_from(summary, "established_ns", events, "ts_ns", clues.established)
        set_from(summary, "accepted_ns", events, "ts_ns", clues.accepted)
        set_from(summary, "state", events, "new_state", clues.state)
        for name in ("saddr", "daddr", "sport", "dport", "netns", "family"):
            set_from(summary, name, events, name, clues.placed)
        self._set_owner(summary, events, clues)
        summary["seen_ns"] = events["ts_ns"][lives.last]
        summary["marks"] |= marks(events, lives)
        summary["retransmits"] += lives.count(events["kind"] == Kind.RETRANSMIT).astype(np.uint16)
        summary["incomplete"] |= ((summary["opened_ns"] == 0) | lossy).astype(np.uint8)
        return summary

    def _carried(self, events: EventArray, lives: Lives) -> ConnectionArray:
        """What is remembered of the lives that go on; nothing, where a loss lets another connection have the same socket."""
        carried = self._open.get(lives.socks[lives.continued])
        if self._lossy:
            other = of_another_connection(events[lives.first[lives.continued]], carried)
            carried[other] = np.zeros(1, dtype=OPEN_DTYPE)
        return carried

    @staticmethod
    def _set_owner(summary: ConnectionArray, events: EventArray, clues: Clues) -> None:
        """The accepting task, or the first that is stated: who opens a connection owns it, whoever closes it."""
        unknown = summary["pid_source"] == PidSource.NONE
        accepted = clues.accepted >= 0
        chosen = np.where(accepted, clues.accepted, np.where(unknown, clues.stated, -1))
        for name in OWNER_NAMES:
            set_from(summary, name, events, name, chosen)
        scanned = (events["flags"][chosen] & Flag.OWNER_BY_SCAN) != 0
        source = np.where(accepted, PidSource.ACCEPT, np.where(scanned, PidSource.FD_SCAN, PidSource.CONTEXT))
        set_where(summary["pid_source"], chosen >= 0, source.astype(np.uint8))

    def _settle(self, events: EventArray, lives: Lives, summary: ConnectionArray) -> ConnectionArray:
        """Keeps the lives that go on, forgets the others, and returns the connections among those that ended."""
        ended = lives.dies[lives.last]
        listens = (summary["state"] == State.LISTEN) | (ended & (events["old_state"][lives.last] == State.LISTEN))
        alive = lives.is_last & ~ended & ~listens & (summary["state"] != 0)
        self._open.drop(lives.socks[lives.is_last & ~alive])
        self._open.put(lives.socks[alive], summary[alive])
        chosen = np.flatnonzero(ended & ~listens)
        return self._finish(events[lives.last[chosen]], lives.socks[chosen], summary[chosen])

    def _finish(self, last: EventArray, socks: npt.NDArray[np.uint64], summary: ConnectionArray) -> ConnectionArray:
        """Ended connections from their last events; both of shape (m,)."""
        connections = np.zeros(len(last), dtype=ENDED_DTYPE)
        for name in OPEN_NAMES:
            connections[name] = summary[name]
        connections["sock"] = socks
        connections["closed_ns"] = last["ts_ns"]
        for name in ("bytes_received", "segs_retrans", "srtt_us", "error"):
            connections[name] = last[name]
        # The SYN of an active open is among the acknowledged bytes.
        syn = (summary["direction"] == Direction.ACTIVE) & (last["bytes_sent"] > 0)
        connections["bytes_sent"] = last["bytes_sent"] - syn
        connections["outcome"] = outcomes(last, summary, self._sees_accepts)
        return connections[np.argsort(connections["closed_ns"], kind="stable")]

    def open_connections(self) -> ConnectionArray:
        """The connections that are open now: shape (len(self),), OPEN_DTYPE, a copy."""
        return self._open.records[self._open.rows()]

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
    is_state = events["kind"] == Kind.STATE
    return Clues(
        established=lives.first_of(is_state & (events["new_state"] == State.ESTABLISHED)),
        accepted=lives.last_of(events["kind"] == Kind.ACCEPT),
        stated=lives.first_of((events["flags"] & Flag.HAS_OWNER) != 0),
        # Before Linux 6.15 the birth of a passive connection has no remote end yet; SYN_SENT has no local port.
        placed=np.maximum(lives.last_of((events["sport"] != 0) & (events["dport"] != 0)), lives.last_of(births(events))),
        state=lives.last_of(is_state),
    )


def marks(events: EventArray, lives: Lives) -> npt.NDArray[np.uint8]:
    """Which Mark of each life the batch shows: shape (lives,)."""
    shown = np.zeros(len(lives.first), dtype=np.uint8)
    for mark, seen in (
        (Mark.RESET_SENT, events["kind"] == Kind.RESET_SENT),
        (Mark.RESET_RECEIVED, events["kind"] == Kind.RESET_RECEIVED),
    ):
        if seen.any():
            shown |= np.where(lives.last_of(seen) >= 0, np.uint8(mark), np.uint8(0))
    return shown


def set_where(target: npt.NDArray[np.generic], where: Mask, values: object) -> None:
    """Sets the elements chosen by a mask, as numpy.copyto does, on a field of a structured array."""
    np.copyto(target, values, where=where)  # type: ignore[arg-type]  # any array of a fitting type


def set_from(target: ConnectionArray, name: str, events: EventArray, column: str, index: Indices) -> None:
    """Sets a field from the event at each index that is not -1; both of shape (lives,)."""
    known = index >= 0
    target[name][known] = events[column][index[known]]
