# SPDX-License-Identifier: Apache-2.0
"""tcptrace export: recordings as tables for other programs."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from tracer.cli.opening import require_pyarrow
from tracer.cli.options import CaptureOptions, takes
from tracer.errors import UsageError

Table = Literal["events", "conns"]
SUFFIXES = (".parquet", ".csv", ".jsonl")


@takes(CaptureOptions)
def export(
    options: CaptureOptions,
    recordings: Annotated[list[str], typer.Argument(metavar="RUN.arrows...", help="Recordings, of one run or several; - is stdin.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="PATH", help="A file .parquet, .csv or .jsonl, or a folder for a Parquet dataset.")
    ],
    table: Annotated[Table | None, typer.Option("--table", help="What to write: events by default; of a dataset both.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
) -> None:
    """
    Writes the events or the connections of recordings as Parquet, CSV or JSON Lines.

    Example: tcptrace export run.arrows -o conns.parquet --table conns
    """
    if output.suffix in SUFFIXES and output.is_dir():
        raise UsageError(f"cannot write {output}: it is a folder", "give another name; for a dataset one without an ending")
    if output.suffix and output.suffix not in SUFFIXES and not output.is_dir():
        raise UsageError(f"unknown kind of file {output.suffix!r}", "end it in " + ", ".join(SUFFIXES) + ", or name a folder")
    require_pyarrow()
    from tracer.cli.exporting import export_dataset, export_file

    if output.suffix in SUFFIXES:
        export_file(options, recordings, output, table or "events", force)
    else:
        export_dataset(options, recordings, output, (table,) if table else ("events", "conns"), force)
