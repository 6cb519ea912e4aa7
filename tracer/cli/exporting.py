# SPDX-License-Identifier: Apache-2.0
"""The work of `tcptrace export`: each run of the recordings folded, and written as one of the kinds of file."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from tracer.cli.groups import connection_fold, connection_groups, event_groups, recorded_cgroups
from tracer.cli.opening import by_run
from tracer.cli.options import CaptureOptions
from tracer.cli.recorded import RecordedCapture
from tracer.cli.run import Run, begin_capture, owner_filter, running, say
from tracer.errors import OutputError
from tracer.events.batch import EventBatch
from tracer.log.files import check_new_file, open_for_writing
from tracer.log.parquet import Dataset, ParquetFile, make_folders
from tracer.state.sockets import SocketTable
from tracer.views.arrow import CONNECTION_SCHEMA, EVENT_SCHEMA, connection_table, event_table
from tracer.views.columns import EVENT_NAMES, Rows, event_columns, loss_values
from tracer.views.connections import CONNECTION_NAMES, ConnectionRows, connection_columns
from tracer.views.lines import FORMATS, Lines

SCHEMAS = {"events": EVENT_SCHEMA, "conns": CONNECTION_SCHEMA}
SORTED_BY = {"events": "ts_ns", "conns": "closed"}
#: The column that the date of a row is taken from.
DAY_OF = {"events": "time", "conns": "closed"}
FORMAT_OF = {".csv": "csv", ".jsonl": "json"}


def tables(run: Run, table: str) -> Iterator[pa.RecordBatch]:
    """The events or the connections of a run, as record batches of SCHEMAS[table]."""
    if table == "events":
        yield from (event_table(group) for group in event_groups(run))
    else:
        yield from (connection_table(group) for group in connection_groups(run))
    check_whole(run)


def each_run(options: CaptureOptions, recordings: Sequence[str]) -> Iterator[Run]:
    """The runs that the recordings are of, one after the other."""
    for paths in by_run(recordings):
        with running(begin_capture(options, paths), options) as run:
            yield run


def check_whole(run: Run) -> None:
    """
    Refuses a run that was not read to its end: a part of a table does not look like one.

    Raises:
        OutputError: a signal came before.
    """
    count = run.options.count
    if run.stop.asked and (count is None or run.written < count):
        raise OutputError("interrupted before the end of the recording", "nothing was written; run it again")


def export_file(options: CaptureOptions, recordings: Sequence[str], output: Path, table: str, force: bool) -> None:
    """
    Writes one file, of the kind that its ending says.

    Raises:
        UsageError: it cannot be written.
        RecordingError: a recording cannot be read.
    """
    if output.suffix == ".parquet":
        rows = write_parquet(options, recordings, output, table, force)
    else:
        rows = write_text(options, recordings, output, table, force)
    say(f"tcptrace: exported {output}: {rows} rows")


def run_name(run: Run) -> str:
    """A name that no other run has: by boot and moment."""
    assert isinstance(run.capture, RecordedCapture)
    return f"{run.capture.info.boot_id[:8]}-{run.capture.info.started_ns}"


def write_parquet(options: CaptureOptions, recordings: Sequence[str], output: Path, table: str, force: bool) -> int:
    with ParquetFile(output, SCHEMAS[table], SORTED_BY[table], force) as file:
        for run in each_run(options, recordings):
            for batch in tables(run, table):
                file.write(batch)
        return file.rows


def export_dataset(options: CaptureOptions, recordings: Sequence[str], folder: Path, wanted: Sequence[str], force: bool) -> None:
    """
    Writes TABLE/host=HOST/date=DATE/RUN.parquet for each table that is wanted, host, date and run.

    Raises:
        UsageError: it cannot be written.
        RecordingError: a recording cannot be read.
    """
    for table in wanted:
        make_folders(folder / table)
        rows = 0
        for run in each_run(options, recordings):
            with Dataset(folder / table, f"{run_name(run)}.parquet", SCHEMAS[table], DAY_OF[table], force) as dataset:
                for batch in tables(run, table):
                    dataset.write(batch, run.host)
                rows += dataset.rows
        say(f"tcptrace: exported {folder / table}: {rows} rows")


@contextmanager
def whole_file(path: Path, force: bool) -> Iterator[BinaryIO]:
    """
    A file that has its name once it is whole; an error leaves none.

    Raises:
        UsageError: it cannot be made, or is there and *force* is not given.
    """
    check_new_file(str(path), force)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with ExitStack() as undo:
        undo.callback(temporary.unlink, missing_ok=True)
        with os.fdopen(open_for_writing(str(temporary), force=True), "wb") as stream:
            yield stream
        temporary.replace(path)


def write_text(options: CaptureOptions, recordings: Sequence[str], output: Path, table: str, force: bool) -> int:
    make, names = (event_lines, EVENT_NAMES) if table == "events" else (connection_lines, CONNECTION_NAMES)
    rows = 0
    with whole_file(output, force) as stream:
        lines = Lines(stream, FORMATS[FORMAT_OF[output.suffix]](names))
        lines.begin()
        for run in each_run(options, recordings):
            write = make(run, lines)
            rows += sum(write(batch) for batch in run.batches(0.0))
            check_whole(run)
    return rows


def event_lines(run: Run, lines: Lines) -> Callable[[EventBatch], int]:
    """Writes the events of a batch that the options want; tells how many lines that are."""
    owners, table = owner_filter(run.options), SocketTable()

    def write(batch: EventBatch) -> int:
        if batch.lost:
            lines.record(loss_values(batch))
        rows = Rows.of(batch, table.fold(batch))
        if not owners.keeps_all:
            rows = rows.only(owners.keep(rows.context))
        rows = rows.only(slice(run.room(len(rows))))
        lines.columns(event_columns(rows))
        return len(rows) + bool(batch.lost)

    return write


def connection_lines(run: Run, lines: Lines) -> Callable[[EventBatch], int]:
    """Writes the connections that ended in a batch, if the options want them; tells how many."""
    fold, cgroups = connection_fold(run), recorded_cgroups(run)

    def write(batch: EventBatch) -> int:
        ended = fold(batch)
        lines.columns(connection_columns(ConnectionRows(ended, batch.wall_offset_ns, cgroups)))
        return len(ended)

    return write
