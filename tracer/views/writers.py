# SPDX-License-Identifier: Apache-2.0
"""Events as text: a writer for each --format, all with the same two methods."""

import csv
import io
from collections.abc import Callable
from typing import Protocol, TextIO

import msgspec

from tracer.events.batch import EventBatch
from tracer.views.columns import EVENT_NAMES, Rows, event_values, loss_values
from tracer.views.table import EventTable


class EventWriter(Protocol):
    """Writes events to the stream it was made with; the caller flushes."""

    def begin(self) -> None:
        """Writes what comes before the first event."""

    def write(self, rows: Rows) -> None:
        """Writes the events."""

    def lost(self, batch: EventBatch) -> None:
        """Writes that events before *batch* are missing."""


class JsonWriter:
    """JSON Lines: one event object a line."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._encoder = msgspec.json.Encoder()

    def begin(self) -> None:
        pass

    def write(self, rows: Rows) -> None:
        columns = zip(*event_values(rows), strict=True)
        self._stream.write(self._encoder.encode_lines([dict(zip(EVENT_NAMES, row, strict=True)) for row in columns]).decode())

    def lost(self, batch: EventBatch) -> None:
        self._stream.write(self._encoder.encode_lines([loss_values(batch)]).decode())


class CsvWriter:
    """CSV with a heading; an absent value is an empty field."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def begin(self) -> None:
        self._rows([EVENT_NAMES])

    def write(self, rows: Rows) -> None:
        self._rows(zip(*event_values(rows), strict=True))

    def lost(self, batch: EventBatch) -> None:
        self._rows([loss_values(batch).values()])

    def _rows(self, rows: object) -> None:
        # One write for each batch: a writer straight on a text stream makes one call for each row.
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)  # type: ignore[arg-type]  # any iterable of iterables
        self._stream.write(text.getvalue())


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
        reasons = ", ".join(f"{reason} {count}" for reason, count in batch.lost.items())
        self._stream.write(f"-- lost {batch.lost_total} events ({reasons}): what follows is incomplete\n")


def make_writer(format_name: str, stream: TextIO, table: EventTable) -> EventWriter:
    """The writer for "table", "json" or "csv"."""
    makers: dict[str, Callable[[], EventWriter]] = {
        "json": lambda: JsonWriter(stream),
        "csv": lambda: CsvWriter(stream),
        "table": lambda: TableWriter(stream, table),
    }
    return makers[format_name]()
