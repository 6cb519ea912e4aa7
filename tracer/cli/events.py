# SPDX-License-Identifier: Apache-2.0
"""tcptrace events: one line for each event."""

import shutil
import sys
from typing import Annotated, Literal

import typer

from tracer.cli.options import CaptureOptions, Inputs, takes
from tracer.cli.run import Run, begin_capture, owner_filter, running
from tracer.kernel.capture import POLL_S
from tracer.state.sockets import SocketTable
from tracer.views.columns import Rows
from tracer.views.table import WIDE, EventTable
from tracer.views.writers import EventWriter, make_writer

Format = Literal["table", "json", "csv"]


@takes(CaptureOptions)
def events(
    options: CaptureOptions,
    format: Annotated[Format, typer.Option("--format", help="How to write the events.")] = "table",
    time: Annotated[bool, typer.Option("-T", "--time", help="Show the time of each event, however narrow the table.")] = False,
    wide: Annotated[bool, typer.Option("-w", "--wide", help="Show all columns and full addresses.")] = False,
    input: Inputs = None,
) -> None:
    """
    One line for each TCP event: every state transition and every accept.

    Example: sudo tcptrace events -P 443 --format json --duration 10
    """
    pending = begin_capture(options, input or ())
    writer = make_writer(format, sys.stdout.buffer, EventTable(WIDE if wide else table_width(), time))
    with running(pending, options) as run:
        write_events(run, writer, SocketTable())


def table_width() -> int:
    """The terminal's width; 80 for a file or a pipe."""
    return shutil.get_terminal_size((80, 24)).columns if sys.stdout.isatty() else 80


def write_events(run: Run, writer: EventWriter, table: SocketTable) -> None:
    """Writes every event that the options want, flushing whenever the ring has been emptied."""
    owners = owner_filter(run.options)
    writer.begin()
    sys.stdout.buffer.flush()
    for batch in run.batches(POLL_S):
        if batch.lost:
            writer.lost(batch)
        rows = Rows.of(batch, table.fold(batch))
        if not owners.keeps_all:
            rows = rows.only(owners.keep(rows.context))
        allowed = run.room(len(rows))
        if allowed:
            writer.write(rows.only(slice(allowed)))
        sys.stdout.buffer.flush()
