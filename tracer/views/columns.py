# SPDX-License-Identifier: Apache-2.0
"""
The fields of an event as people and programs see them: one list drives the table, JSON and CSV.

A column turns a whole batch into a list of plain values at once; nothing here runs once for each event in Python but what makes
text.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tracer.events.addresses import address_text
from tracer.events.batch import EventBatch
from tracer.events.schema import KIND_NAMES, STATE_NAMES, EventArray, Kind, error_name
from tracer.state.sockets import ContextArray, PidSource

PID_SOURCES: tuple[str | None, ...] = tuple(None if s is PidSource.NONE else s.name.lower() for s in PidSource)

Values: TypeAlias = list[Any]


@dataclass(frozen=True, slots=True)
class Rows:
    """Events to be shown: *events* and *context* of shape (n,), and what to add to `ts_ns` for wall time."""

    events: EventArray
    context: ContextArray
    wall_offset_ns: int

    @classmethod
    def of(cls, batch: EventBatch, context: ContextArray) -> "Rows":
        return cls(batch.events, context, batch.wall_offset_ns)

    def __len__(self) -> int:
        return len(self.events)

    def only(self, keep: npt.NDArray[np.bool_] | slice) -> "Rows":
        """The rows chosen by a mask of shape (n,) or a slice."""
        return Rows(self.events[keep], self.context[keep], self.wall_offset_ns)


@dataclass(frozen=True, slots=True)
class Column:
    """A field: its name as JSON key and CSV heading, what it means, and how to get its values."""

    name: str
    meaning: str
    values: Callable[[Rows], Values]


@lru_cache(maxsize=4096)
def comm_text(comm: bytes) -> str:
    """A task's name as text; bytes that are not UTF-8 stay visible as escapes."""
    return comm.decode(errors="backslashreplace")


def rfc3339_of(ts_ns: npt.NDArray[np.uint64], wall_offset_ns: int) -> Values:
    """Monotonic times of shape (n,) as wall time, UTC."""
    wall = (ts_ns.astype(np.int64) + wall_offset_ns).view("datetime64[ns]")
    return [text + "Z" for text in np.datetime_as_string(wall, unit="ns").tolist()]


def addresses_of(column: npt.NDArray[np.void]) -> Values:
    # A void scalar's tolist() gives bytes of a field, tobytes() of the whole is the quickest way to all of them.
    raw = np.ascontiguousarray(column).tobytes()
    return [address_text(raw[i : i + 16]) for i in range(0, len(raw), 16)]


def _states(name: str) -> Callable[[Rows], Values]:
    names: list[str | None] = [*STATE_NAMES]

    def values(rows: Rows) -> Values:
        states = rows.events[name].tolist()
        if (rows.events["kind"] == Kind.STATE).all():
            return [names[s] for s in states]
        return [names[s] if s else None for s in states]

    return values


def _field(name: str) -> Callable[[Rows], Values]:
    return lambda rows: rows.events[name].tolist()


def _owner(name: str) -> Callable[[Rows], Values]:
    def values(rows: Rows) -> Values:
        known = (rows.context["pid_source"] != PidSource.NONE).tolist()
        return [value if k else None for value, k in zip(rows.context[name].tolist(), known, strict=True)]

    return values


def _comms(rows: Rows) -> Values:
    return [None if comm is None else comm_text(comm) for comm in _owner("comm")(rows)]


def _in_state_us(rows: Rows) -> Values:
    return [ns // 1000 if ns >= 0 else None for ns in rows.context["in_state_ns"].tolist()]


EVENT_COLUMNS: Sequence[Column] = (
    Column("time", "wall time, UTC", lambda r: rfc3339_of(r.events["ts_ns"], r.wall_offset_ns)),
    Column("ts_ns", "kernel's monotonic clock, ns", _field("ts_ns")),
    Column(
        "kind",
        "state, accept, retransmit, reset_sent, reset_received or lost",
        lambda r: [KIND_NAMES[k] for k in r.events["kind"].tolist()],
    ),
    Column("old", "TCP state before", _states("old_state")),
    Column("new", "TCP state after", _states("new_state")),
    Column("family", "4 or 6; v4-mapped counts as 4", _field("family")),
    Column("saddr", "local address", lambda r: addresses_of(r.events["saddr"])),
    Column("sport", "local port; 0 while none is chosen", _field("sport")),
    Column("daddr", "remote address", lambda r: addresses_of(r.events["daddr"])),
    Column("dport", "remote port", _field("dport")),
    Column("pid", "process id of the owner, where known", _owner("tgid")),
    Column("comm", "name of the owner's task", _comms),
    Column("uid", "user id of the owner", _owner("uid")),
    Column(
        "pid_source",
        "how the owner is known: context, accept, cached or fd_scan",
        lambda r: [PID_SOURCES[s] for s in r.context["pid_source"].tolist()],
    ),
    Column("netns", "network namespace, inode number", _field("netns")),
    Column("cgroup", "cgroup v2 id of the owner", _owner("cgroup")),
    Column("sock", "kernel address of the socket", lambda r: [f"{s:#x}" for s in r.events["sock"].tolist()]),
    Column("in_state_us", "time spent in the old state, us", _in_state_us),
    Column("error", "the socket's error", lambda r: [error_name(e) for e in r.events["error"].tolist()]),
    Column("lost", "kind lost: how many events are missing here", lambda r: [None] * len(r)),
)

EVENT_NAMES: tuple[str, ...] = tuple(column.name for column in EVENT_COLUMNS)


def event_values(rows: Rows) -> list[Values]:
    """All columns of *rows*, in the order of EVENT_COLUMNS."""
    return [column.values(rows) for column in EVENT_COLUMNS]


def loss_values(batch: EventBatch) -> dict[str, Any]:
    """The one record, by column name, that says what is missing before a batch."""
    wall = np.datetime64(batch.now_ns + batch.wall_offset_ns, "ns")
    return dict.fromkeys(EVENT_NAMES) | {
        "time": f"{np.datetime_as_string(wall, unit='ns')}Z",
        "ts_ns": batch.now_ns,
        "kind": KIND_NAMES[Kind.LOST],
        "error": ",".join(sorted(batch.lost)),
        "lost": batch.lost_total,
    }
