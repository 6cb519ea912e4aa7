# SPDX-License-Identifier: Apache-2.0
"""Events as text: a writer for each --format, all with the same two methods."""

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TextIO

import msgspec

from tracer.events.batch import EventBatch
from tracer.views.columns import EVENT_NAMES, Rows, Values, event_values, loss_values
from tracer.views.table import EventTable


class EventWriter(Protocol):
    """Writes events to the stream it was made with; the caller flushes."""

    def begin(self) -> None:
        """Writes what comes before the first event."""

    def write(self, rows: Rows) -> None:
        """Writes the events."""

    def lost(self, batch: EventBatch) -> None:
        """Writes that events before *batch* are missing."""


class JsonLines:
    """JSON Lines: columns of values, or single records, as one object a line."""

    def __init__(self, stream: TextIO, names: Sequence[str]) -> None:
        self._stream = stream
        self._names = names
        self._encoder = msgspec.json.Encoder()

    def begin(self) -> None:
        pass

    def columns(self, values: list[Values]) -> None:
        self._write([dict(zip(self._names, row, strict=True)) for row in zip(*values, strict=True)])

    def record(self, record: Mapping[str, Any]) -> None:
        self._write([record])

    def _write(self, objects: list[Any]) -> None:
        self._stream.write(self._encoder.encode_lines(objects).decode())


class CsvLines:
    """CSV with a heading; an absent value is an empty field."""

    def __init__(self, stream: TextIO, names: Sequence[str]) -> None:
        self._stream = stream
        self._names = names

    def begin(self) -> None:
        self._write([self._names])

    def columns(self, values: list[Values]) -> None:
        self._write(zip(*values, strict=True))

    def record(self, record: Mapping[str, Any]) -> None:
        self._write([[record[name] for name in self._names]])

    def _write(self, rows: Iterable[Iterable[Any]]) -> None:
        # One write for each batch: a writer straight on a text stream makes one call for each row.
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        self._stream.write(text.getvalue())


class ValueWriter:
    """Events as values, one record a line."""

    def __init__(self, lines: JsonLines | CsvLines) -> None:
        self._lines = lines

    def begin(self) -> None:
        self._lines.begin()

    def write(self, rows: Rows) -> None:
        self._lines.columns(event_values(rows))

    def lost(self, batch: EventBatch) -> None:
        self._lines.record(loss_values(batch))


class JsonWriter(ValueWriter):
    """Events as JSON Lines."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(JsonLines(stream, EVENT_NAMES))


class CsvWriter(ValueWriter):
    """Events as CSV."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(CsvLines(stream, EVENT_NAMES))


class TableWriter:
    """A table for people, as wide as asked for."""

    def __init__(self, stream: TextIO, table: EventTable) -> None:
        self._stream = stream
        self._table = table

    def begin(self) -> None:
        self._stream.write(self._table.heading() + "\n")

    def write(self, rows: Rows) -> None:
        self._stream.writelines(self._table.lines(rows))

    def lost(self, batch: EventBatch) -> None:
        self._stream.write(loss_line(batch))


def loss_line(batch: EventBatch) -> str:
    """What a table says of a loss, with its newline."""
    reasons = ", ".join(f"{reason} {count}" for reason, count in batch.lost.items())
    return f"-- lost {batch.lost_total} events ({reasons}): what follows is incomplete\n"


def make_writer(format_name: str, stream: TextIO, table: EventTable) -> EventWriter:
    """The writer for "table", "json" or "csv"."""
    makers: dict[str, Callable[[], EventWriter]] = {
        "json": lambda: JsonWriter(stream),
        "csv": lambda: CsvWriter(stream),
        "table": lambda: TableWriter(stream, table),
    }
    return makers[format_name]()
