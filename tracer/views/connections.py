# SPDX-License-Identifier: Apache-2.0
"""The fields of a connection as people and programs see them: one list drives the table, JSON and CSV."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tracer.events.addresses import short_endpoint_text
from tracer.events.schema import error_name
from tracer.reconcile.cgroups import CgroupPaths, container_name
from tracer.state.connections import ConnectionArray
from tracer.state.outcomes import Direction, Outcome
from tracer.state.sockets import PidSource
from tracer.views.columns import PID_SOURCES, Values, addresses_of, comm_text, rfc3339_of
from tracer.views.table import TableColumn, clock_texts, printable

OUTCOMES = tuple(outcome.name.lower() for outcome in Outcome)
DIRECTIONS = tuple(direction.name.lower() for direction in Direction)

#: Direction as a sign: we opened it, they did, unknown.
ARROWS = ("?", ">", "<")


@dataclass(frozen=True, slots=True)
class ConnectionRows:
    """
    Connections to be shown.

    Attributes:
        connections: shape (n,), ENDED_DTYPE.
        wall_offset_ns: to be added to their times for wall time.
        cgroups: names cgroups.
        host: turns an address into what is shown for it: itself, or a name.
    """

    connections: ConnectionArray
    wall_offset_ns: int
    cgroups: CgroupPaths
    host: Callable[[str], str] = str

    def __len__(self) -> int:
        return len(self.connections)

    def only(self, keep: npt.NDArray[np.bool_] | npt.NDArray[np.intp] | slice) -> "ConnectionRows":
        """The rows chosen by a mask, an index, each of shape (n,) or less, or a slice."""
        return ConnectionRows(self.connections[keep], self.wall_offset_ns, self.cgroups, self.host)


@dataclass(frozen=True, slots=True)
class Column:
    """A field: its name as JSON key and CSV heading, what it means, and how to get its values."""

    name: str
    meaning: str
    values: Callable[[ConnectionRows], Values]


def _where(values: Values, known: npt.NDArray[np.bool_]) -> Values:
    return [value if k else None for value, k in zip(values, known.tolist(), strict=True)]


def _field(name: str) -> Callable[[ConnectionRows], Values]:
    return lambda rows: rows.connections[name].tolist()


def _time(name: str) -> Callable[[ConnectionRows], Values]:
    return lambda rows: _where(rfc3339_of(rows.connections[name], rows.wall_offset_ns), rows.connections[name] != 0)


def _span(start: str, end: str, unit_ns: int) -> Callable[[ConnectionRows], Values]:
    """The time from one moment to another, where both are known; two CPUs' clocks may differ by nanoseconds, so never below 0."""

    def values(rows: ConnectionRows) -> Values:
        first, last = (rows.connections[name].astype(np.int64) for name in (start, end))
        return _where((np.maximum(last - first, 0) / unit_ns).round(3).tolist(), (first != 0) & (last != 0))

    return values


def _of_direction(values: Callable[[ConnectionRows], Values], direction: Direction) -> Callable[[ConnectionRows], Values]:
    return lambda rows: _where(values(rows), rows.connections["direction"] == direction)


def _owner(name: str) -> Callable[[ConnectionRows], Values]:
    return lambda rows: _where(rows.connections[name].tolist(), rows.connections["pid_source"] != PidSource.NONE)


def _comms(rows: ConnectionRows) -> Values:
    return [None if comm is None else comm_text(comm) for comm in _owner("comm")(rows)]


def _cgroups(rows: ConnectionRows) -> Values:
    return [rows.cgroups.path(cgroup) for cgroup in rows.connections["cgroup"].tolist()]


def _containers(rows: ConnectionRows) -> Values:
    return [path and container_name(path) for path in _cgroups(rows)]


def _retransmits(rows: ConnectionRows) -> Values:
    counts: Values = np.maximum(rows.connections["segs_retrans"], rows.connections["retransmits"]).tolist()
    return counts


handshakes = _of_direction(_span("opened_ns", "established_ns", 1000), Direction.ACTIVE)
accept_waits = _of_direction(_span("established_ns", "accepted_ns", 1000), Direction.PASSIVE)
durations = _span("opened_ns", "closed_ns", 1_000_000)

CONNECTION_COLUMNS: Sequence[Column] = (
    Column("opened", "wall time of its birth, UTC; null: before the capture", _time("opened_ns")),
    Column("closed", "wall time of its end, UTC; null: still open", _time("closed_ns")),
    Column(
        "direction", "active: this end opened it; passive; unknown", lambda r: [DIRECTIONS[d] for d in r.connections["direction"].tolist()]
    ),
    Column("family", "4 or 6; v4-mapped counts as 4", _field("family")),
    Column("saddr", "local address", lambda r: addresses_of(r.connections["saddr"])),
    Column("sport", "local port", _field("sport")),
    Column("daddr", "remote address", lambda r: [r.host(address) for address in addresses_of(r.connections["daddr"])]),
    Column("dport", "remote port", _field("dport")),
    Column("pid", "process id of the owner, where known", _owner("tgid")),
    Column("comm", "name of the owner's task", _comms),
    Column("uid", "user id of the owner", _owner("uid")),
    Column("pid_source", "how the owner is known", lambda r: [PID_SOURCES[s] for s in r.connections["pid_source"].tolist()]),
    Column("netns", "network namespace, inode number", _field("netns")),
    Column("cgroup", "path of the owner's cgroup (v2)", _cgroups),
    Column("container", "container or service, by the cgroup", _containers),
    Column("duration_ms", "from birth to end", durations),
    Column("handshake_us", "active: SYN_SENT to ESTABLISHED", handshakes),
    Column("accept_wait_us", "passive: ESTABLISHED to accept", accept_waits),
    Column("bytes_sent", "acknowledged by the other end", _field("bytes_sent")),
    Column("bytes_received", "from the other end", _field("bytes_received")),
    Column("retransmits", "segments sent again", _retransmits),
    Column("srtt_us", "smoothed round-trip time at the end", lambda r: _where(_field("srtt_us")(r), r.connections["srtt_us"] != 0)),
    Column(
        "outcome",
        "why it ended: " + " ".join(OUTCOMES),
        lambda r: _where([OUTCOMES[o] for o in r.connections["outcome"].tolist()], r.connections["closed_ns"] != 0),
    ),
    Column("error", "the socket's error", lambda r: [error_name(e) for e in r.connections["error"].tolist()]),
    Column("complete", "seen from its birth, nothing lost meanwhile", lambda r: (r.connections["incomplete"] == 0).tolist()),
)

CONNECTION_NAMES: tuple[str, ...] = tuple(column.name for column in CONNECTION_COLUMNS)
VALUES = {column.name: column.values for column in CONNECTION_COLUMNS}


def connection_values(rows: ConnectionRows) -> list[Values]:
    """All columns of *rows*, in the order of CONNECTION_COLUMNS."""
    return [column.values(rows) for column in CONNECTION_COLUMNS]


def size_text(count: int) -> str:
    """A number of bytes in at most five columns: 999, 1.2K, 345K, 1.5G."""
    if count < 1000:
        return str(count)
    value = float(count)
    for unit in "KMGTPE":
        value /= 1000
        if value < 999.5:
            return f"{value:.1f}{unit}" if value < 99.95 else f"{value:.0f}{unit}"
    return "huge"


def _plain(name: str) -> Callable[[ConnectionRows, int], list[str]]:
    """A column's values as text, absent ones as a dash, cut to the width."""
    return lambda rows, width: ["-" if value is None else printable(str(value))[:width] for value in VALUES[name](rows)]


def _sizes(name: str) -> Callable[[ConnectionRows, int], list[str]]:
    return lambda rows, _: [size_text(value) for value in VALUES[name](rows)]


def _milliseconds(name: str, unit: float) -> Callable[[ConnectionRows, int], list[str]]:
    def cells(rows: ConnectionRows, width: int) -> list[str]:
        return [
            "-" if value is None else f"{value / unit:.{2 if value / unit < 10 ** (width - 4) else 0}f}" for value in VALUES[name](rows)
        ]

    return cells


def _ends(address: str, port: str) -> Callable[[ConnectionRows, int], list[str]]:
    def cells(rows: ConnectionRows, width: int) -> list[str]:
        return [short_endpoint_text(a, p, width) for a, p in zip(VALUES[address](rows), VALUES[port](rows), strict=True)]

    return cells


TABLE_COLUMNS: Sequence[TableColumn] = (
    TableColumn("TIME", 12, 7, lambda r, _: clock_texts(r.connections["closed_ns"], r.wall_offset_ns)),
    TableColumn("PID", 7, 4, _plain("pid"), right=True),
    TableColumn("COMM", 7, 5, _plain("comm"), full_width=16),
    TableColumn(
        "LADDR", 15, 10, lambda r, w: [a if len(a) <= w else a[: w - 1] + "~" for a in addresses_of(r.connections["saddr"])], full_width=39
    ),
    TableColumn("LPORT", 5, 2, _plain("sport"), right=True),
    TableColumn("D", 1, 1, lambda r, _: [ARROWS[d] for d in r.connections["direction"].tolist()]),
    TableColumn("REMOTE", 21, 0, _ends("daddr", "dport"), full_width=47),
    TableColumn("TX", 5, 3, _sizes("bytes_sent"), right=True),
    TableColumn("RX", 5, 3, _sizes("bytes_received"), right=True),
    TableColumn("MS", 7, 1, _milliseconds("duration_ms", 1), right=True, full_width=10),
    TableColumn("OUTCOME", 14, 0, _plain("outcome"), full_width=16),
    TableColumn("HSHAKE_MS", 9, 8, _milliseconds("handshake_us", 1000), right=True),
    TableColumn("ACCEPT_MS", 9, 8, _milliseconds("accept_wait_us", 1000), right=True),
    TableColumn("RETR", 5, 9, _plain("retransmits"), right=True),
    TableColumn("RTT_MS", 8, 9, _milliseconds("srtt_us", 1000), right=True),
    TableColumn("CONTAINER", 24, 11, _plain("container")),
)
