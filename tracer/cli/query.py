# SPDX-License-Identifier: Apache-2.0
"""tcptrace query: SQL over recordings."""

from typing import Annotated, Literal

import typer

from tracer.cli.opening import require_pyarrow
from tracer.cli.options import CaptureOptions, takes
from tracer.errors import UsageError

VIEWS = ("events", "conns", "seconds")


@takes(CaptureOptions)
def query(
    options: CaptureOptions,
    arguments: Annotated[list[str] | None, typer.Argument(metavar="RUN.arrows... SQL", help="Recordings, and the query.")] = None,
    format: Annotated[Literal["table", "json", "csv"], typer.Option("--format", help="How to write the result.")] = "table",
    schema: Annotated[bool, typer.Option("--schema", help="List the columns with their units and meanings, and leave.")] = False,
) -> None:
    """
    SQL over the views events, conns and seconds of recordings.

    Example: tcptrace query run.arrows "SELECT outcome, count(*) FROM conns GROUP BY outcome"
    """
    require_pyarrow()
    require_duckdb()
    from tracer.cli.querying import run_query, write_schema

    if schema:
        write_schema(format)
        return
    if not arguments or len(arguments) < 2:
        raise UsageError("query needs a recording and a query", 'for example: tcptrace query run.arrows "SELECT count(*) FROM events"')
    run_query(options, arguments[:-1], arguments[-1], format)


def require_duckdb() -> None:
    """
    Raises:
        UsageError: duckdb is not installed.
    """
    try:
        import duckdb  # noqa: F401  # whether it is there
    except ImportError as error:
        raise UsageError("query needs duckdb, which is not installed", "install it: pip install 'tcptrace[query]'") from error
