# SPDX-License-Identifier: Apache-2.0
"""Events as text: a writer for each --format, all with the same methods."""

from typing import BinaryIO, Protocol

from tracer.events.batch import EventBatch
from tracer.views.columns import EVENT_NAMES, Rows, event_columns, loss_values
from tracer.views.lines import FORMATS, Lines
from tracer.views.table import EventTable


class EventWriter(Protocol):
    """Writes events to the stream it was made with; the caller flushes."""

    def begin(self) -> None:
        """Writes what comes before the first event."""

    def write(self, rows: Rows) -> None:
        """Writes the events."""

    def lost(self, batch: EventBatch) -> None:
        """Writes that events before *batch* are missing."""


class LineWriter:
    """For programs: one record a line, in one of FORMATS."""

    def __init__(self, stream: BinaryIO, format_name: str) -> None:
        self._lines = Lines(stream, FORMATS[format_name](EVENT_NAMES))

    def begin(self) -> None:
        self._lines.begin()

    def write(self, rows: Rows) -> None:
        self._lines.columns(event_columns(rows))

    def lost(self, batch: EventBatch) -> None:
        self._lines.record(loss_values(batch))


class TableWriter:
    """A table for people, as wide as asked for."""

    def __init__(self, stream: BinaryIO, table: EventTable) -> None:
        self._stream = stream
        self._table = table

    def begin(self) -> None:
        self._stream.write(f"{self._table.heading()}\n".encode())

    def write(self, rows: Rows) -> None:
        self._stream.write("".join(self._table.lines(rows)).encode(errors="replace"))

    def lost(self, batch: EventBatch) -> None:
        self._stream.write(loss_line(batch).encode())


def loss_line(batch: EventBatch) -> str:
    """What a table says of a loss, with its newline."""
    reasons = ", ".join(f"{reason} {count}" for reason, count in batch.lost.items())
    return f"-- lost {batch.lost_total} events ({reasons}): what follows is incomplete\n"


def make_writer(format_name: str, stream: BinaryIO, table: EventTable) -> EventWriter:
    """The writer for "table", "json" or "csv"."""
    return TableWriter(stream, table) if format_name == "table" else LineWriter(stream, format_name)
