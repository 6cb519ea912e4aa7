# SPDX-License-Identifier: Apache-2.0
"""
The work of `tcptrace query`: what the query names is folded into Parquet files in a temporary folder, over which DuckDB runs it.

So a query may look at a view as often as it likes, in a memory that does not grow with the recording; and the same views can be had from
`tcptrace export` with any other engine.
"""

import re
import sys
import tempfile
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from tracer.cli.exporting import SCHEMAS, write_parquet
from tracer.cli.options import CaptureOptions
from tracer.cli.query import VIEWS
from tracer.errors import UsageError
from tracer.views.lines import FORMATS, Lines
from tracer.views.table import printable

#: What a view is made from.
TABLE_OF = {"events": "events", "conns": "conns", "seconds": "events"}
#: RFC 3339; pyarrow writes as many digits of the second as the type has.
RFC3339 = "%Y-%m-%dT%H:%M:%SZ"


def run_query(options: CaptureOptions, recordings: Sequence[str], sql: str, form: str) -> None:
    """
    Runs the query and writes its result to standard output.

    Raises:
        UsageError: DuckDB does not accept the query.
        RecordingError: a recording cannot be read.
    """
    named = {word for word in re.findall(r"\w+", sql.lower()) if word in VIEWS}
    with tempfile.TemporaryDirectory(prefix="tcptrace-") as folder, duckdb.connect() as database:
        database.execute("SET TimeZone = 'UTC'")
        database.execute("SET enable_progress_bar = false")
        for table in sorted({TABLE_OF[view] for view in named}):
            path = Path(folder, f"{table}.parquet")
            write_parquet(options, recordings, path, table, force=False)
            database.read_parquet(str(path)).create_view(table)
        if "seconds" in named:
            database.execute(files("tracer.log").joinpath("seconds.sql").read_text())
        try:
            found = database.sql(sql).to_arrow_table()
        except duckdb.Error as error:
            raise UsageError(f"the query failed: {str(error).splitlines()[0]}", "see the columns with: tcptrace query --schema") from error
    write_result(found, form)


def write_schema(form: str) -> None:
    """The columns of the views: view, column, type, unit, meaning."""
    rows = [
        (table, field.name, type_name(field.type), text(field, b"unit"), text(field, b"description"))
        for table, schema in SCHEMAS.items()
        for field in schema
    ]
    rows += [("seconds", name, kind, unit, meaning) for name, kind, unit, meaning in SECONDS]
    names = ("view", "column", "type", "unit", "meaning")
    write_result(pa.table({name: list(values) for name, values in zip(names, zip(*rows, strict=True), strict=True)}), form)


#: The columns of the view seconds, which SQL makes.
SECONDS = (
    ("host", "string", "", "name of the recorded host"),
    ("second", "timestamp", "", "beginning of the second, UTC"),
    ("events", "int64", "events", "that were recorded"),
    ("opened", "int64", "connections", "active opens begun: CLOSE to SYN_SENT"),
    ("accepted", "int64", "connections", "accepted by a process"),
    ("established", "int64", "connections", "ends of connections that became ESTABLISHED"),
    ("closed", "int64", "connections", "ends of connections that closed"),
    ("failed", "int64", "connections", "active opens that the network or the host refused"),
    ("lost", "int64", "events", "that are missing in the recording"),
)


def type_name(kind: pa.DataType) -> str:
    """The type as SQL has it: a dictionary is what it holds."""
    return str(kind.value_type if pa.types.is_dictionary(kind) else "timestamp" if pa.types.is_timestamp(kind) else kind)


def text(field: pa.Field, key: bytes) -> str:
    value: bytes = field.metadata[key]
    return value.decode()


def write_result(table: pa.Table, form: str) -> None:
    """Writes a table to standard output, in one of the formats."""
    table = pa.table([plain(column) for column in table.columns], names=distinct_names(table.column_names))
    stream = sys.stdout.buffer
    if form == "table":
        stream.write("".join(f"{line}\n" for line in table_lines(table)).encode(errors="replace"))
    else:
        lines = Lines(stream, FORMATS[form](table.column_names))
        lines.begin()
        for row in table.to_pylist():
            lines.record(row)
    stream.flush()


def distinct_names(names: Sequence[str]) -> list[str]:
    """The names, numbered where one comes twice: an object cannot have a key twice."""
    return [name if name not in names[:i] else f"{name}_{i + 1}" for i, name in enumerate(names)]


def plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column whose values have a plain form in JSON: times as text with all their digits."""
    if pa.types.is_timestamp(column.type):
        return pc.strftime(column.cast(pa.timestamp("ns", tz="UTC")), format=RFC3339)
    if pa.types.is_decimal(column.type):
        return column.cast(pa.float64())
    return column


def table_lines(table: pa.Table) -> list[str]:
    """The rows as aligned text, numbers to the right, with a heading."""
    columns = []
    for name, column in zip(table.column_names, table.columns, strict=True):
        cells = [name, *("-" if value is None else printable(str(value)) for value in column.to_pylist())]
        width = max(map(len, cells))
        is_number = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
        columns.append([cell.rjust(width) if is_number else cell.ljust(width) for cell in cells])
    return ["  ".join(row).rstrip() for row in zip(*columns, strict=True)]
