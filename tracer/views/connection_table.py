# SPDX-License-Identifier: Apache-2.0
"""The table of connections for people."""

from collections.abc import Callable, Sequence

import numpy as np

from tracer.events.addresses import short_endpoint_text
from tracer.state.connections import ConnectionArray
from tracer.views.cells import addresses
from tracer.views.connections import CONNECTION_FIELDS, ConnectionRows, Span, accept_wait, duration, handshake, remotes
from tracer.views.table import SHORT_STATES, TableColumn, clock_texts, plain_texts, span_text

#: Direction as a sign: we opened it, they did, unknown.
ARROWS = ("?", ">", "<")

COLUMNS_BY_NAME = {field.name: field.column for field in CONNECTION_FIELDS}


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
    return lambda rows, width: plain_texts(COLUMNS_BY_NAME[name](rows), width)


def _sizes(name: str) -> Callable[[ConnectionRows, int], list[str]]:
    return lambda rows, _: [size_text(count) for count in rows.connections[name].tolist()]


def _milliseconds(find: Callable[[ConnectionArray], Span]) -> Callable[[ConnectionRows, int], list[str]]:
    def cells(rows: ConnectionRows, width: int) -> list[str]:
        found = find(rows.connections)
        values = zip((found.ns / 1e6).tolist(), found.known.tolist(), strict=True)
        return [f"{ms:.{2 if ms < 10 ** (width - 4) else 0}f}" if known else "-" for ms, known in values]

    return cells


def round_trip(connections: ConnectionArray) -> Span:
    """The smoothed round-trip time at the end."""
    return Span(connections["srtt_us"].astype(np.int64) * 1000, connections["srtt_us"] != 0)


def _local_addresses(rows: ConnectionRows, width: int) -> list[str]:
    texts = (text or "" for text in addresses(rows.connections["saddr"]).texts())
    return [text if len(text) <= width else text[: width - 1] + "~" for text in texts]


def _remote_ends(rows: ConnectionRows, width: int) -> list[str]:
    ends = zip(remotes(rows).texts(), rows.connections["dport"].tolist(), strict=True)
    return [short_endpoint_text(address or "", port, width) for address, port in ends]


def _ages(rows: ConnectionRows, _: int) -> list[str]:
    found = duration(rows.connections)
    values = zip((found.ns / 1000).tolist(), found.known.tolist(), strict=True)
    return [span_text(us) if known else "-" for us, known in values]


def _states(rows: ConnectionRows, width: int) -> list[str]:
    return [SHORT_STATES[state][:width] for state in rows.connections["state"].tolist()]


#: Of ended connections, and of conns.
ENDED_COLUMNS: Sequence[TableColumn] = (
    TableColumn("TIME", 12, 7, lambda r, _: clock_texts(r.connections["closed_ns"], r.wall_offset_ns)),
    TableColumn("PID", 7, 4, _plain("pid"), right=True),
    TableColumn("COMM", 7, 5, _plain("comm"), full_width=16),
    TableColumn("LADDR", 15, 10, _local_addresses, full_width=39),
    TableColumn("LPORT", 5, 2, _plain("sport"), right=True),
    TableColumn("D", 1, 1, lambda r, _: [ARROWS[d] for d in r.connections["direction"].tolist()]),
    TableColumn("REMOTE", 21, 0, _remote_ends, full_width=47),
    TableColumn("TX", 5, 3, _sizes("bytes_sent"), right=True),
    TableColumn("RX", 5, 3, _sizes("bytes_received"), right=True),
    TableColumn("MS", 7, 1, _milliseconds(duration), right=True, full_width=10),
    TableColumn("OUTCOME", 14, 0, _plain("outcome"), full_width=16),
    TableColumn("HSHAKE_MS", 9, 8, _milliseconds(handshake), right=True),
    TableColumn("ACCEPT_MS", 9, 8, _milliseconds(accept_wait), right=True),
    TableColumn("RETR", 5, 9, _plain("retransmits"), right=True),
    TableColumn("RTT_MS", 8, 9, _milliseconds(round_trip), right=True),
    TableColumn("CONTAINER", 24, 11, _plain("container")),
)

#: Of open ones; the duration of an open connection is its age.
OPEN_COLUMNS: Sequence[TableColumn] = (
    TableColumn("PID", 7, 4, _plain("pid"), right=True),
    TableColumn("COMM", 10, 5, _plain("comm"), full_width=16),
    TableColumn("LADDR", 15, 10, _local_addresses, full_width=39),
    TableColumn("LPORT", 5, 2, _plain("sport"), right=True),
    TableColumn("D", 1, 1, lambda r, _: [ARROWS[d] for d in r.connections["direction"].tolist()]),
    TableColumn("REMOTE", 21, 0, _remote_ends, full_width=47),
    TableColumn("STATE", 10, 0, _states, full_width=11),
    TableColumn("AGE", 7, 1, _ages, right=True),
    TableColumn("RETR", 5, 3, _plain("retransmits"), right=True),
    TableColumn("HSHAKE_MS", 9, 8, _milliseconds(handshake), right=True),
    TableColumn("ACCEPT_MS", 9, 8, _milliseconds(accept_wait), right=True),
    TableColumn("CONTAINER", 24, 11, _plain("container")),
)
