# SPDX-License-Identifier: Apache-2.0
"""
Events and connections as Arrow columns: the fields of the event and the connection object, typed, for Parquet and SQL.

Names repeat, so they are dictionaries; an absent value is null.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tracer.events.addresses import address_text
from tracer.events.schema import ACCEPT_FIELDS, EVENT_DTYPE, EventArray, Flag, Kind
from tracer.state.sockets import ContextArray
from tracer.views.arrays import TEXT, WALL, Mask, constant, numbers, task_name, texts_of, wall_times, words
from tracer.views.cells import Words
from tracer.views.columns import EVENT_FIELDS, Field, Rows, error_names, is_owned
from tracer.views.connections import (
    CONNECTION_FIELDS,
    ConnectionRows,
    Span,
    accept_wait,
    cgroups,
    containers,
    duration,
    handshake,
    retransmits,
)


@dataclass(frozen=True, slots=True)
class EventGroup:
    """
    Events for Arrow, of one host.

    Attributes:
        events, context: shape (n,) each; a loss is an event made by loss_event().
        wall_ns: shape (n,), int64: wall time of each.
        reasons: the reasons of losses, by number.
        host: its name.
    """

    events: EventArray
    context: ContextArray
    wall_ns: npt.NDArray[np.int64]
    reasons: Sequence[str]
    host: str

    def __len__(self) -> int:
        return len(self.events)

    @property
    def rows(self) -> Rows:
        return Rows(self.events, self.context, 0)

    @property
    def is_loss(self) -> Mask:
        losses: Mask = self.events["kind"] == Kind.LOST
        return losses


def loss_event(now_ns: int, missing: int, reason: int) -> EventArray:
    """
    A loss as an event, shape (1,): what no event of kind LOST has itself carries what a loss has.

    Args:
        now_ns: when it was noticed.
        missing: how many events; in bytes_sent.
        reason: number of the reason; in sock.
    """
    event = np.zeros(1, dtype=EVENT_DTYPE)
    event["ts_ns"], event["kind"], event["bytes_sent"], event["sock"] = now_ns, Kind.LOST, missing, reason
    return event


@dataclass(frozen=True, slots=True)
class ConnectionGroup:
    """Ended connections for Arrow, of one host; *wall_offset_ns* is added to their times for wall time."""

    rows: ConnectionRows
    host: str

    def __len__(self) -> int:
        return len(self.rows)


GroupT = TypeVar("GroupT")


@dataclass(frozen=True, slots=True)
class ArrowField(Generic[GroupT]):
    """A column: its name, type and unit, what it means, and its values for a group of n rows."""

    name: str
    type: pa.DataType
    unit: str
    meaning: str
    values: Callable[[GroupT], pa.Array]


def _event(name: str) -> Callable[[EventGroup], pa.Array]:
    return lambda group: numbers(group.events[name], group.is_loss)


def _owner(name: str) -> Callable[[EventGroup], pa.Array]:
    return lambda group: numbers(group.context[name], ~is_owned(group.context))


def _words(fields: Sequence[Field[Rows]], name: str) -> Callable[[EventGroup], pa.Array]:
    """A column that is words in the views too."""
    field = next(field for field in fields if field.name == name)

    def values(group: EventGroup) -> pa.Array:
        column = field.column(group.rows)
        assert isinstance(column, Words)
        return words(column)

    return values


def _error(group: EventGroup) -> pa.Array:
    """The socket's error, or what a loss is for."""
    errors = error_names(group.events["error"])
    index = errors.index.copy()
    index[group.is_loss] = len(errors.words) + group.events["sock"][group.is_loss].astype(np.intp)
    return words(Words([*errors.words, *group.reasons], index))


def _in_state_us(group: EventGroup) -> pa.Array:
    elapsed = group.context["in_state_ns"]
    return numbers(np.maximum(elapsed, 0) // 1000, elapsed < 0)


def _of_listener(name: str) -> Callable[[EventGroup], pa.Array]:
    field = ACCEPT_FIELDS[name]
    return lambda group: numbers(group.events[field], (group.events["flags"] & Flag.HAS_BACKLOG) == 0)


EVENT_MEANINGS = {field.name: field.meaning for field in EVENT_FIELDS}
CONNECTION_MEANINGS = {field.name: field.meaning for field in CONNECTION_FIELDS}
HOST = "name of the recorded host"


def _event_field(name: str, kind: pa.DataType, values: Callable[[EventGroup], pa.Array], unit: str = "") -> ArrowField[EventGroup]:
    return ArrowField(name, kind, unit, EVENT_MEANINGS[name], values)


def _event_words(name: str) -> ArrowField[EventGroup]:
    return _event_field(name, TEXT, _words(EVENT_FIELDS, name))


def _number_type(name: str) -> pa.DataType:
    return pa.from_numpy_dtype(EVENT_DTYPE[name])


ARROW_EVENT_FIELDS: Sequence[ArrowField[EventGroup]] = (
    ArrowField("host", TEXT, "", HOST, lambda g: constant(g.host, len(g))),
    _event_field("time", WALL, lambda g: wall_times(g.wall_ns), "ns"),
    _event_field("ts_ns", pa.int64(), lambda g: numbers(g.events["ts_ns"].astype(np.int64)), "ns"),
    _event_words("kind"),
    _event_words("old"),
    _event_words("new"),
    _event_field("family", pa.uint8(), _event("family")),
    _event_field("saddr", TEXT, lambda g: texts_of(g.events["saddr"], address_text, g.is_loss)),
    _event_field("sport", pa.uint16(), _event("sport")),
    _event_field("daddr", TEXT, lambda g: texts_of(g.events["daddr"], address_text, g.is_loss)),
    _event_field("dport", pa.uint16(), _event("dport")),
    _event_field("pid", pa.uint32(), _owner("tgid")),
    _event_field("comm", TEXT, lambda g: texts_of(g.context["comm"], task_name, ~is_owned(g.context))),
    _event_field("uid", pa.uint32(), _owner("uid")),
    _event_words("pid_source"),
    _event_field("netns", pa.uint32(), _event("netns")),
    _event_field("cgroup", pa.uint64(), _owner("cgroup")),
    _event_field("sock", pa.uint64(), _event("sock")),
    _event_field("in_state_us", pa.int64(), _in_state_us, "us"),
    _event_field("error", TEXT, _error),
    _event_field("lost", pa.int64(), lambda g: numbers(g.events["bytes_sent"].astype(np.int64), ~g.is_loss), "events"),
    _event_field("backlog", pa.uint32(), _of_listener("backlog"), "connections"),
    _event_field("backlog_max", pa.uint32(), _of_listener("backlog_max"), "connections"),
)


def _connection(name: str) -> Callable[[ConnectionGroup], pa.Array]:
    return lambda group: numbers(group.rows.connections[name])


def _owned(name: str) -> Callable[[ConnectionGroup], pa.Array]:
    return lambda group: numbers(group.rows.connections[name], ~is_owned(group.rows.connections))


def _moment(name: str) -> Callable[[ConnectionGroup], pa.Array]:
    def values(group: ConnectionGroup) -> pa.Array:
        ns = group.rows.connections[name].astype(np.int64)
        return wall_times(ns + group.rows.wall_offset_ns, ns == 0)

    return values


def _span(find: Callable[[npt.NDArray[np.void]], Span], unit_ns: int) -> Callable[[ConnectionGroup], pa.Array]:
    def values(group: ConnectionGroup) -> pa.Array:
        found = find(group.rows.connections)
        return numbers(found.ns / unit_ns, ~found.known)

    return values


def _connection_field(
    name: str, kind: pa.DataType, values: Callable[[ConnectionGroup], pa.Array], unit: str = ""
) -> ArrowField[ConnectionGroup]:
    return ArrowField(name, kind, unit, CONNECTION_MEANINGS[name], values)


def _connection_words(name: str) -> ArrowField[ConnectionGroup]:
    field = next(field for field in CONNECTION_FIELDS if field.name == name)

    def values(group: ConnectionGroup) -> pa.Array:
        column = field.column(group.rows)
        assert isinstance(column, Words)
        return words(column)

    return _connection_field(name, TEXT, values)


ARROW_CONNECTION_FIELDS: Sequence[ArrowField[ConnectionGroup]] = (
    ArrowField("host", TEXT, "", HOST, lambda g: constant(g.host, len(g))),
    _connection_field("opened", WALL, _moment("opened_ns"), "ns"),
    _connection_field("closed", WALL, _moment("closed_ns"), "ns"),
    _connection_words("direction"),
    _connection_field("family", pa.uint8(), _connection("family")),
    _connection_field("saddr", TEXT, lambda g: texts_of(g.rows.connections["saddr"], address_text)),
    _connection_field("sport", pa.uint16(), _connection("sport")),
    _connection_field("daddr", TEXT, lambda g: texts_of(g.rows.connections["daddr"], address_text)),
    _connection_field("dport", pa.uint16(), _connection("dport")),
    _connection_field("pid", pa.uint32(), _owned("tgid")),
    _connection_field("comm", TEXT, lambda g: texts_of(g.rows.connections["comm"], task_name, ~is_owned(g.rows.connections))),
    _connection_field("uid", pa.uint32(), _owned("uid")),
    _connection_words("pid_source"),
    _connection_field("netns", pa.uint32(), _connection("netns")),
    _connection_field("cgroup", TEXT, lambda g: words(cgroups(g.rows))),
    _connection_field("container", TEXT, lambda g: words(containers(g.rows))),
    _connection_field("duration_ms", pa.float64(), _span(duration, 1_000_000), "ms"),
    _connection_field("handshake_us", pa.float64(), _span(handshake, 1000), "us"),
    _connection_field("accept_wait_us", pa.float64(), _span(accept_wait, 1000), "us"),
    _connection_field("bytes_sent", pa.uint64(), _connection("bytes_sent"), "bytes"),
    _connection_field("bytes_received", pa.uint64(), _connection("bytes_received"), "bytes"),
    _connection_field("retransmits", pa.uint32(), lambda g: numbers(retransmits(g.rows.connections).astype(np.uint32)), "segments"),
    _connection_field("srtt_us", pa.uint32(), lambda g: numbers(g.rows.connections["srtt_us"], g.rows.connections["srtt_us"] == 0), "us"),
    _connection_words("outcome"),
    _connection_words("error"),
    _connection_field("complete", pa.bool_(), lambda g: numbers(g.rows.connections["incomplete"] == 0)),
)


def arrow_schema(fields: Sequence[ArrowField[GroupT]]) -> pa.Schema:
    """The schema of a table of these columns, with `unit` and `description` of each."""
    return pa.schema([pa.field(f.name, f.type, metadata={"unit": f.unit, "description": f.meaning}) for f in fields])


EVENT_SCHEMA = arrow_schema(ARROW_EVENT_FIELDS)
CONNECTION_SCHEMA = arrow_schema(ARROW_CONNECTION_FIELDS)


def event_table(group: EventGroup) -> pa.RecordBatch:
    """The events as n rows of EVENT_SCHEMA."""
    return pa.RecordBatch.from_arrays([field.values(group) for field in ARROW_EVENT_FIELDS], schema=EVENT_SCHEMA)


def connection_table(group: ConnectionGroup) -> pa.RecordBatch:
    """The connections as n rows of CONNECTION_SCHEMA."""
    return pa.RecordBatch.from_arrays([field.values(group) for field in ARROW_CONNECTION_FIELDS], schema=CONNECTION_SCHEMA)
