# SPDX-License-Identifier: Apache-2.0
"""The fields of an event as people and programs see them: one list drives the table, JSON and CSV."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from tracer.events.batch import EventBatch
from tracer.events.schema import ACCEPT_FIELDS, KIND_NAMES, STATE_NAMES, EventArray, Flag, Kind, error_name
from tracer.state.sockets import ContextArray, PidSource
from tracer.views.cells import (
    Column,
    Words,
    addresses,
    choices,
    distinct,
    integers,
    kernel_addresses,
    task_names,
    wall_times,
)

KINDS = tuple(KIND_NAMES.get(kind) for kind in range(max(KIND_NAMES) + 1))
PID_SOURCES: tuple[str | None, ...] = tuple(None if s is PidSource.NONE else s.name.lower() for s in PidSource)


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


RowsT = TypeVar("RowsT")


@dataclass(frozen=True, slots=True)
class Field(Generic[RowsT]):
    """A field: its name as JSON key and CSV heading, what it means, and its column for some rows."""

    name: str
    meaning: str
    column: Callable[[RowsT], Column]


def error_names(errors: npt.NDArray[np.uint16]) -> Words:
    """Symbols of errnos, shape (n,)."""
    numbers, index = distinct(errors)
    return choices([error_name(number) for number in numbers.tolist()], index)


def _kinds(rows: Rows) -> Words:
    return choices(KINDS, rows.events["kind"])


def _states(name: str) -> Callable[[Rows], Column]:
    return lambda rows: choices(STATE_NAMES, rows.events[name]).where(rows.events["kind"] == Kind.STATE)


def _integers(name: str) -> Callable[[Rows], Column]:
    return lambda rows: integers(rows.events[name])


def is_owned(rows: npt.NDArray[np.void]) -> npt.NDArray[np.bool_]:
    """Which rows of an array with a field pid_source have an owner."""
    owned: npt.NDArray[np.bool_] = rows["pid_source"] != PidSource.NONE
    return owned


def _owner(name: str) -> Callable[[Rows], Column]:
    return lambda rows: integers(rows.context[name]).where(is_owned(rows.context))


def _pid_sources(rows: Rows) -> Words:
    return choices(PID_SOURCES, rows.context["pid_source"])


def _in_state_us(rows: Rows) -> Column:
    elapsed = rows.context["in_state_ns"]
    return integers(np.maximum(elapsed, 0) // 1000).where(elapsed >= 0)


def _of_listener(name: str) -> Callable[[Rows], Column]:
    field = ACCEPT_FIELDS[name]
    return lambda rows: integers(rows.events[field]).where((rows.events["flags"] & Flag.HAS_BACKLOG) != 0)


EVENT_FIELDS: Sequence[Field[Rows]] = (
    Field("time", "wall time, UTC", lambda r: wall_times(r.events["ts_ns"], r.wall_offset_ns)),
    Field("ts_ns", "kernel's monotonic clock, ns", _integers("ts_ns")),
    Field("kind", "state, accept, retransmit, reset_sent, reset_received or lost", _kinds),
    Field("old", "TCP state before", _states("old_state")),
    Field("new", "TCP state after", _states("new_state")),
    Field("family", "4 or 6; v4-mapped counts as 4", _integers("family")),
    Field("saddr", "local address", lambda r: addresses(r.events["saddr"])),
    Field("sport", "local port; 0 while none is chosen", _integers("sport")),
    Field("daddr", "remote address", lambda r: addresses(r.events["daddr"])),
    Field("dport", "remote port", _integers("dport")),
    Field("pid", "process id of the owner, where known", _owner("tgid")),
    Field("comm", "name of the owner's task", lambda r: task_names(r.context["comm"]).where(is_owned(r.context))),
    Field("uid", "user id of the owner", _owner("uid")),
    Field("pid_source", "how the owner is known: context, accept, cached or fd_scan", _pid_sources),
    Field("netns", "network namespace, inode number", _integers("netns")),
    Field("cgroup", "cgroup v2 id of the owner", _owner("cgroup")),
    Field("sock", "kernel address of the socket", lambda r: kernel_addresses(r.events["sock"])),
    Field("in_state_us", "time spent in the old state, us", _in_state_us),
    Field("error", "the socket's error", lambda r: error_names(r.events["error"])),
    Field("lost", "kind lost: how many events are missing here", lambda r: Words((), np.full(len(r), -1))),
    Field("backlog", "kind accept: connections that still wait in the listener's queue", _of_listener("backlog")),
    Field("backlog_max", "kind accept: how many the queue takes", _of_listener("backlog_max")),
)

EVENT_NAMES: tuple[str, ...] = tuple(field.name for field in EVENT_FIELDS)


def event_columns(rows: Rows) -> list[Column]:
    """All columns of *rows*, in the order of EVENT_FIELDS."""
    return [field.column(rows) for field in EVENT_FIELDS]


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
