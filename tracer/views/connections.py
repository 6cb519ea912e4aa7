# SPDX-License-Identifier: Apache-2.0
"""The fields of a connection as programs see them, in JSON and CSV; the table for people is in connection_table.py."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tracer.reconcile.cgroups import container_name
from tracer.state.connections import ConnectionArray
from tracer.state.outcomes import Direction, Outcome
from tracer.views.cells import Column, Words, addresses, choices, distinct, integers, task_names, thousandths, wall_times, words_of
from tracer.views.columns import PID_SOURCES, Field, error_names, is_owned

OUTCOMES = tuple(outcome.name.lower() for outcome in Outcome)
DIRECTIONS = tuple(direction.name.lower() for direction in Direction)


class CgroupNames(Protocol):
    """Names cgroups: of this host, or of a recorded one."""

    def path(self, cgroup: int, /) -> str | None: ...


@dataclass(frozen=True, slots=True)
class ConnectionRows:
    """
    Connections to be shown.

    Attributes:
        connections: shape (n,), ENDED_DTYPE.
        wall_offset_ns: to be added to their times for wall time.
        cgroups: names cgroups.
        host: turns an address into what is shown for it; None: the address itself.
    """

    connections: ConnectionArray
    wall_offset_ns: int
    cgroups: CgroupNames
    host: Callable[[str], str] | None = None

    def __len__(self) -> int:
        return len(self.connections)


@dataclass(frozen=True, slots=True)
class Span:
    """The time from one moment to another: *ns* and *known* of shape (n,)."""

    ns: npt.NDArray[np.int64]
    known: npt.NDArray[np.bool_]


def span(connections: ConnectionArray, start: str, end: str) -> Span:
    """Known where both moments are; two CPUs' clocks may differ by nanoseconds, so never below 0."""
    first, last = (connections[name].astype(np.int64) for name in (start, end))
    return Span(np.maximum(last - first, 0), (first != 0) & (last != 0))


def duration(connections: ConnectionArray) -> Span:
    return span(connections, "opened_ns", "closed_ns")


def handshake(connections: ConnectionArray) -> Span:
    """Of active opens: SYN_SENT to ESTABLISHED."""
    found = span(connections, "opened_ns", "established_ns")
    return Span(found.ns, found.known & (connections["direction"] == Direction.ACTIVE))


def accept_wait(connections: ConnectionArray) -> Span:
    """Of passive opens: ESTABLISHED to accept."""
    found = span(connections, "established_ns", "accepted_ns")
    return Span(found.ns, found.known & (connections["direction"] == Direction.PASSIVE))


def retransmits(connections: ConnectionArray) -> npt.NDArray[np.uint32]:
    """The kernel's total at the end, or what was seen so far: shape (n,)."""
    counts: npt.NDArray[np.uint32] = np.maximum(connections["segs_retrans"], connections["retransmits"])
    return counts


def remotes(rows: ConnectionRows) -> Column:
    """The other ends, by name where names are wanted and known."""
    found = addresses(rows.connections["daddr"])
    return found if rows.host is None else words_of([rows.host(address or "") for address in found.texts()])


def cgroups(rows: ConnectionRows) -> Words:
    numbers, index = distinct(rows.connections["cgroup"])
    return choices([rows.cgroups.path(number) for number in numbers.tolist()], index)


def containers(rows: ConnectionRows) -> Words:
    paths = cgroups(rows)
    return choices([container_name(path) for path in paths.words], paths.index).where(paths.index >= 0)


def outcomes(rows: ConnectionRows) -> Words:
    return choices(OUTCOMES, rows.connections["outcome"]).where(rows.connections["closed_ns"] != 0)


def _integers(name: str) -> Callable[[ConnectionRows], Column]:
    return lambda rows: integers(rows.connections[name])


def _time(name: str) -> Callable[[ConnectionRows], Column]:
    return lambda rows: wall_times(rows.connections[name], rows.wall_offset_ns).where(rows.connections[name] != 0)


def _span(find: Callable[[ConnectionArray], Span], unit_ns: int) -> Callable[[ConnectionRows], Column]:
    """In microseconds or milliseconds, to a thousandth."""

    def column(rows: ConnectionRows) -> Column:
        found = find(rows.connections)
        known_ns = np.where(found.known, found.ns, 0)
        return thousandths((known_ns + unit_ns // 2000) // (unit_ns // 1000)).where(found.known)

    return column


def _owner(name: str) -> Callable[[ConnectionRows], Column]:
    return lambda rows: integers(rows.connections[name]).where(is_owned(rows.connections))


CONNECTION_FIELDS: Sequence[Field[ConnectionRows]] = (
    Field("opened", "wall time of its birth, UTC; null: before the capture", _time("opened_ns")),
    Field("closed", "wall time of its end, UTC; null: still open", _time("closed_ns")),
    Field("direction", "active: this end opened it; passive; unknown", lambda r: choices(DIRECTIONS, r.connections["direction"])),
    Field("family", "4 or 6; v4-mapped counts as 4", _integers("family")),
    Field("saddr", "local address", lambda r: addresses(r.connections["saddr"])),
    Field("sport", "local port", _integers("sport")),
    Field("daddr", "remote address", remotes),
    Field("dport", "remote port", _integers("dport")),
    Field("pid", "process id of the owner, where known", _owner("tgid")),
    Field("comm", "name of the owner's task", lambda r: task_names(r.connections["comm"]).where(is_owned(r.connections))),
    Field("uid", "user id of the owner", _owner("uid")),
    Field("pid_source", "how the owner is known", lambda r: choices(PID_SOURCES, r.connections["pid_source"])),
    Field("netns", "network namespace, inode number", _integers("netns")),
    Field("cgroup", "path of the owner's cgroup (v2)", cgroups),
    Field("container", "container or service, by the cgroup", containers),
    Field("duration_ms", "from birth to end", _span(duration, 1_000_000)),
    Field("handshake_us", "active: SYN_SENT to ESTABLISHED", _span(handshake, 1000)),
    Field("accept_wait_us", "passive: ESTABLISHED to accept", _span(accept_wait, 1000)),
    Field("bytes_sent", "acknowledged by the other end", _integers("bytes_sent")),
    Field("bytes_received", "from the other end", _integers("bytes_received")),
    Field("retransmits", "segments sent again", lambda r: integers(retransmits(r.connections))),
    Field(
        "srtt_us", "smoothed round-trip time at the end", lambda r: integers(r.connections["srtt_us"]).where(r.connections["srtt_us"] != 0)
    ),
    Field("outcome", "why it ended: " + " ".join(OUTCOMES), outcomes),
    Field("error", "the socket's error", lambda r: error_names(r.connections["error"])),
    Field("complete", "seen from its birth, nothing lost meanwhile", lambda r: Words(("false", "true"), _is_complete(r), is_text=False)),
)


def _is_complete(rows: ConnectionRows) -> npt.NDArray[np.intp]:
    complete: npt.NDArray[np.intp] = (rows.connections["incomplete"] == 0).astype(np.intp)
    return complete


CONNECTION_NAMES: tuple[str, ...] = tuple(field.name for field in CONNECTION_FIELDS)


def connection_columns(rows: ConnectionRows) -> list[Column]:
    """All columns of *rows*, in the order of CONNECTION_FIELDS."""
    return [field.column(rows) for field in CONNECTION_FIELDS]
