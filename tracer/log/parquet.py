# SPDX-License-Identifier: Apache-2.0
"""
Tables as Parquet: one file, or a dataset partitioned by host and date.

Each row group is sorted, and says so; times are stored as differences, names as dictionaries, and statistics let a reader skip the
row groups that it does not need.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tracer.errors import OutputError
from tracer.log.files import check_new_file, open_for_writing, sudo_owner

#: Columns whose values rise or repeat little, as differences; a dictionary of them would be as large as they are.
DELTA: Final = {
    "time": "DELTA_BINARY_PACKED",
    "ts_ns": "DELTA_BINARY_PACKED",
    "opened": "DELTA_BINARY_PACKED",
    "closed": "DELTA_BINARY_PACKED",
}


class ParquetFile:
    """
    Writes one file: under another name until it is whole. A context manager: leaving it with an error leaves no file.

    Args:
        path: of the file.
        schema: of its rows.
        sorted_by: the column by which each record batch is sorted.
        force: replace a file that is there.
    """

    def __init__(self, path: Path, schema: pa.Schema, sorted_by: str, force: bool = False) -> None:
        self._path = path
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}")
        check_new_file(str(path), force)
        self._file = os.fdopen(open_for_writing(str(self._temporary), force=True), "wb")
        delta = {name: kind for name, kind in DELTA.items() if name in schema.names}
        self._writer = pq.ParquetWriter(
            self._file,
            schema,
            compression="zstd",
            use_dictionary=[name for name in schema.names if name not in delta],
            column_encoding=delta,
            sorting_columns=[pq.SortingColumn(schema.get_field_index(sorted_by))],
            write_statistics=True,
        )
        self.rows = 0

    def write(self, batch: pa.RecordBatch) -> None:
        """Writes a row group."""
        self._writer.write_table(pa.Table.from_batches([batch]), row_group_size=max(len(batch), 1))
        self.rows += len(batch)

    def __enter__(self) -> "ParquetFile":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._finish()
        else:
            self._discard()

    def _finish(self) -> None:
        try:
            self._writer.close()
            self._file.close()
            self._temporary.replace(self._path)
        except OSError as error:
            self._discard()
            raise OutputError(f"cannot write {self._path}: {error.strerror}", "free some space, or write elsewhere") from error

    def _discard(self) -> None:
        with suppress(Exception):  # what has failed already may fail again
            self._writer.close()
        with suppress(OSError):
            self._file.close()
        self._temporary.unlink(missing_ok=True)


class Dataset:
    """
    Writes a folder host=HOST/date=DATE, with a file of *name* in each; the usual layout, which every engine knows.

    Args:
        folder: above all of them; it exists.
        name: of every file.
        schema: of the rows, with the column host, which is left out of the files.
        day_of: the column of times that the rows are sorted by and their date is taken from.
        force: replace files that are there.
    """

    def __init__(self, folder: Path, name: str, schema: pa.Schema, day_of: str, force: bool = False) -> None:
        self._folder = folder
        self._name = name
        self._schema = schema.remove(schema.get_field_index("host"))
        self._day_of = day_of
        self._force = force
        self._files: dict[tuple[str, str], ParquetFile] = {}

    def write(self, batch: pa.RecordBatch, host: str) -> None:
        """Writes a batch of one host, in a row group for each day."""
        for day, rows in by_day(batch, self._day_of):
            self._file(host, day).write(rows.drop_columns(["host"]))

    def _file(self, host: str, day: str) -> ParquetFile:
        key = (host, day)
        if key not in self._files:
            folder = self._folder / f"host={quoted(host)}" / f"date={day}"
            make_folders(folder)
            self._files[key] = ParquetFile(folder / self._name, self._schema, self._day_of, self._force)
        return self._files[key]

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self._files.values())

    def __enter__(self) -> "Dataset":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        for file in self._files.values():
            file.__exit__(kind, error, trace)


def by_day(batch: pa.RecordBatch, column: str) -> Iterator[tuple[str, pa.RecordBatch]]:
    """The rows of each day, UTC, in order of days; rows without a time are left out."""
    days = pc.cast(batch.column(column), pa.date32())
    for day in sorted(day for day in pc.unique(days).to_pylist() if day is not None):
        yield day.isoformat(), batch.filter(pc.equal(days, pa.scalar(day, pa.date32())))


def quoted(host: str) -> str:
    """A host's name as part of a path, percent-encoded where it must be, as the readers of such datasets expect."""
    return "".join(c if c.isalnum() or c in "-_.~" else "".join(f"%{byte:02X}" for byte in c.encode()) for c in host)


def make_folders(folder: Path) -> None:
    """Makes a folder and those above it; they belong to the user behind sudo."""
    missing: Sequence[Path] = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    owner = sudo_owner()
    if owner is not None:
        for path in missing:
            with suppress(OSError):
                os.chown(path, *owner)
