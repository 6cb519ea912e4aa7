# SPDX-License-Identifier: Apache-2.0
"""
The event table: one line an event, in as many columns as the width allows.

At 80 columns it shows who, from where, to where, and which transition; with more room the time, the time in the old state and
full addresses; with less it gives up the name, the process and the local end, in this order.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from tracer.events.addresses import short_endpoint_text
from tracer.events.schema import KIND_NAMES, STATE_NAMES, Kind, error_name
from tracer.views.cells import Column, addresses
from tracer.views.columns import EVENT_FIELDS, Rows

DEFAULT_WIDTH = 80
WIDE = 200

#: "ESTABLISHED" alone is what makes two states too long for 80 columns; ss has the same short form.
SHORT_STATES = tuple("ESTAB" if name == "ESTABLISHED" else name for name in STATE_NAMES)

COLUMNS_BY_NAME = {field.name: field.column for field in EVENT_FIELDS}


@dataclass(frozen=True, slots=True)
class TableColumn:
    """
    A column of text, of whatever rows its table has.

    *width* is its least width, *full_width* how far it may grow; *rank* says how soon it is given up (higher goes first).
    """

    title: str
    width: int
    rank: int
    cells: Callable[[Any, int], list[str]]
    right: bool = False
    full_width: int = 0


def printable(text: str) -> str:
    """The text with everything that could move a cursor or colour a terminal made harmless."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


@lru_cache(maxsize=64)
def _clock_text(second: int) -> str:
    return time.strftime("%H:%M:%S", time.localtime(second))


def clock_texts(ts_ns: npt.NDArray[np.uint64], wall_offset_ns: int) -> list[str]:
    """Monotonic times of shape (n,) as local time of day with milliseconds."""
    milliseconds = (ts_ns.astype(np.int64) + wall_offset_ns) // 1_000_000
    return [f"{_clock_text(ms // 1000)}.{ms % 1000:03d}" for ms in milliseconds.tolist()]


def span_text(microseconds: float | None) -> str:
    """A duration in at most six columns: 85us, 1.25ms, 340ms, 2.5s, 12m, 3.1h, 12d; a dash for none."""
    if microseconds is None:
        return "-"
    if microseconds < 1000:
        return f"{microseconds:.0f}us"
    for unit, size, limit in (("ms", 1e3, 1e6), ("s", 1e6, 6e7), ("m", 6e7, 3.6e9), ("h", 3.6e9, 8.64e10)):
        if microseconds < limit:
            return f"{microseconds / size:.3g}{unit}"
    return f"{microseconds / 8.64e10:.3g}d"


def plain_texts(column: Column, width: int) -> list[str]:
    """A column's values, absent ones as a dash, harmless and cut to the width."""
    return ["-" if text is None else printable(text)[:width] for text in column.texts()]


def _plain(name: str) -> Callable[[Rows, int], list[str]]:
    return lambda rows, width: plain_texts(COLUMNS_BY_NAME[name](rows), width)


def endpoint_texts(column: npt.NDArray[np.void], ports: npt.NDArray[np.uint16], width: int) -> list[str]:
    """Addresses with their ports, both of shape (n,), each in at most *width* columns."""
    ends = zip(addresses(column).texts(), ports.tolist(), strict=True)
    return [short_endpoint_text(address or "", port, width) for address, port in ends]


def _endpoints(address: str, port: str) -> Callable[[Rows, int], list[str]]:
    return lambda rows, width: endpoint_texts(rows.events[address], rows.events[port], width)


def _changes(rows: Rows, width: int) -> list[str]:
    names = STATE_NAMES if width >= 24 else SHORT_STATES
    events = rows.events
    fields = zip(events["kind"].tolist(), events["old_state"].tolist(), events["new_state"].tolist(), strict=True)
    return [f"{names[old]}>{names[new]}" if kind == Kind.STATE else KIND_NAMES[kind] for kind, old, new in fields]


def _milliseconds(rows: Rows, _: int) -> list[str]:
    return ["-" if ns < 0 else f"{ns / 1e6:.3f}" for ns in rows.context["in_state_ns"].tolist()]


def _errors(rows: Rows, _: int) -> list[str]:
    return [error_name(error) or "" for error in rows.events["error"].tolist()]


TIME = TableColumn("TIME", 12, 4, lambda rows, _: clock_texts(rows.events["ts_ns"], rows.wall_offset_ns))

#: In the order of display.
COLUMNS: Sequence[TableColumn] = (
    TIME,
    TableColumn("PID", 7, 2, _plain("pid"), right=True),
    TableColumn("COMM", 8, 3, _plain("comm"), full_width=16),
    TableColumn("LOCAL", 21, 1, _endpoints("saddr", "sport"), full_width=47),
    TableColumn("REMOTE", 21, 0, _endpoints("daddr", "dport"), full_width=47),
    TableColumn("OLD>NEW", 19, 0, _changes, full_width=24),
    TableColumn("MS", 10, 5, _milliseconds, right=True),
    TableColumn("ERROR", 12, 6, _errors),
)


class Table:
    """
    Rows as lines of text.

    Args:
        columns: in the order of display.
        width: columns of the terminal or page.
    """

    def __init__(self, columns: Sequence[TableColumn], width: int) -> None:
        self._columns = fit(columns, width)
        self._width = width

    def heading(self) -> str:
        return self._join([[c.title] for c in self._columns_only()])[0]

    def lines(self, rows: Any) -> Iterator[str]:
        """The rows as lines, each with its newline."""
        cells = [column.cells(rows, width) for column, width in self._columns]
        return (line + "\n" for line in self._join(cells))

    def _columns_only(self) -> list[TableColumn]:
        return [column for column, _ in self._columns]

    def _join(self, cells: Sequence[list[str]]) -> list[str]:
        parts = [f"{{:{'>' if c.right else '<'}{w}}}" for c, w in self._columns]
        template = " ".join(parts)
        return [template.format(*row).rstrip()[: self._width] for row in zip(*cells, strict=True)]


class EventTable(Table):
    """
    Args:
        width: columns of the terminal or page.
        with_time: the time is wanted, whatever else must go.
    """

    def __init__(self, width: int = DEFAULT_WIDTH, with_time: bool = False) -> None:
        super().__init__([replace(TIME, rank=0) if with_time and c is TIME else c for c in COLUMNS], width)


def fit(columns: Sequence[TableColumn], width: int) -> list[tuple[TableColumn, int]]:
    """The columns that fit, each with its width: least important ones go first, then the room left over is given out."""
    chosen = list(columns)
    while _total(chosen) > width and any(c.rank for c in chosen):
        chosen.remove(max(chosen, key=lambda c: c.rank))
    spare = max(width - _total(chosen), 0)
    widths = []
    for column in chosen:
        grow = min(spare, max(column.full_width - column.width, 0))
        spare -= grow
        widths.append(column.width + grow)
    return list(zip(chosen, widths, strict=True))


def _total(columns: Sequence[TableColumn]) -> int:
    return sum(c.width for c in columns) + len(columns) - 1
