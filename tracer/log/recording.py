# SPDX-License-Identifier: Apache-2.0
"""
A recording in progress: one file, or a row of them.

With rotation the files are RUN.0001.arrows, RUN.0002.arrows and so on. Each can be read alone: it begins with the run and the samples
that keep() was given.
"""

import glob
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from tracer.events.batch import EventBatch
from tracer.log.background import BackgroundWriter
from tracer.log.entries import RunInfo
from tracer.log.files import STDOUT, OutputFile, check_new_file, is_stream, open_for_writing
from tracer.log.writer import FLUSH_NS, IDLE_FLUSH_NS, Compression, LogWriter

NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Destination:
    """
    Where a recording goes.

    Attributes:
        path: a file, a FIFO, or "-" for standard output.
        force: replace files that are there.
        compression: of the events.
        rotate_bytes, rotate_s: begin another file beyond these; 0: never.
        keep: how many files stay when there are more; 0: all.
        max_bytes: how large all files together may become; 0: no limit.
    """

    path: str
    force: bool = False
    compression: Compression = "zstd"
    rotate_bytes: int = 0
    rotate_s: float = 0.0
    keep: int = 0
    max_bytes: int = 0

    @property
    def rotates(self) -> bool:
        return self.rotate_bytes > 0 or self.rotate_s > 0

    def part_path(self, part: int) -> str:
        """The name of a file of the row."""
        if not self.rotates:
            return self.path
        path = Path(self.path)
        return str(path.with_name(f"{path.stem}.{part:04}{path.suffix or '.arrows'}"))

    def first_paths(self) -> list[str]:
        """The file to begin with, and those of an earlier row that would be in the way once it is their turn."""
        first = Path(self.part_path(1))
        pattern = f"{glob.escape(Path(self.path).stem)}.[0-9][0-9][0-9][0-9]{glob.escape(first.suffix)}"
        others = sorted(map(str, first.parent.glob(pattern))) if self.rotates else []
        return [str(first), *others]

    @property
    def is_file(self) -> bool:
        return self.path != STDOUT and not is_stream(self.path)


class Recording:
    """
    Takes batches and samples, and writes them in a thread. A context manager: leaving it ends the recording in good order.

    Args:
        destination: a stream is opened at once, which waits for its reader; a file is made by begin(), when it is known that there is
            something to record.

    Attributes:
        is_full: --max-size is reached; nothing more is taken.

    Raises:
        UsageError: the destination cannot be written.
    """

    def __init__(self, destination: Destination) -> None:
        self._destination = destination
        self._part = 1
        self._done_bytes = 0
        self._begun_ns = 0
        self._kept: dict[str, bytes] = {}
        self._paths: list[str] = []
        self._info: RunInfo | None = None
        self._writer: LogWriter | None = None
        self._file: OutputFile | None = None
        if destination.is_file:
            for path in destination.first_paths():
                check_new_file(path, destination.force)
        else:
            self._file = OutputFile(open_for_writing(destination.path, force=False), destination.path)
        self._background = BackgroundWriter()
        self.is_full = False

    def _next_file(self) -> OutputFile:
        path = self._destination.part_path(self._part)
        file = OutputFile(open_for_writing(path, self._destination.force), path)
        self._paths.append(path)
        return file

    @property
    def events(self) -> int:
        """Events taken so far, without those that still wait to be put together."""
        return self._writer.events if self._writer is not None else 0

    @property
    def size(self) -> int:
        """Bytes made so far, of all files."""
        return self._done_bytes + (self._writer.bytes if self._writer is not None else 0)

    def begin(self, info: RunInfo) -> None:
        """Writes what a recording begins with."""
        self._info = info
        self._begun_ns = info.started_ns
        self._file = self._file or self._next_file()
        self._writer = self._make_writer(info, self._file, 0)

    def _make_writer(self, info: RunInfo, file: OutputFile, first_event: int) -> LogWriter:
        # Whoever reads a stream while it is written wants to see that time goes on.
        idle_flush_ns = IDLE_FLUSH_NS if self._destination.is_file else FLUSH_NS
        put = partial(self._background.put, file.write)
        return LogWriter(put, info, self._destination.compression, first_event, idle_flush_ns)

    def append(self, batch: EventBatch) -> None:
        """
        Adds a batch.

        Raises:
            OutputError: an earlier one could not be written.
        """
        assert self._writer is not None, "begin() comes first"
        if self.is_full:
            return
        if self._is_due(batch.now_ns):
            self._rotate(batch.now_ns)
        self._writer.append(batch)
        limit = self._destination.max_bytes
        self.is_full = bool(limit) and self.size >= limit

    def sample(self, kind: str, content: bytes) -> None:
        """Adds a sample."""
        assert self._writer is not None, "begin() comes first"
        self._writer.sample(kind, content)

    def keep(self, kind: str, content: bytes) -> None:
        """Has each file that follows begin with this sample, instead of an earlier one of its kind."""
        self._kept[kind] = content

    def _is_due(self, now_ns: int) -> bool:
        assert self._writer is not None
        large = self._destination.rotate_bytes and self._writer.bytes >= self._destination.rotate_bytes
        old = self._destination.rotate_s and now_ns - self._begun_ns >= self._destination.rotate_s * NS
        return bool(large or old)

    def _rotate(self, now_ns: int) -> None:
        assert self._writer is not None
        assert self._info is not None
        self._finish("rotated")
        self._part += 1
        self._begun_ns = now_ns
        self._done_bytes += self._writer.bytes
        self._file = self._next_file()
        info = msgspec.structs.replace(self._info, part=self._part)
        self._writer = self._make_writer(info, self._file, self._writer.events)
        for kind, content in self._kept.items():
            self._writer.sample(kind, content)
        self._forget()

    def _forget(self) -> None:
        """Deletes the oldest files beyond those to keep."""
        while self._destination.keep and len(self._paths) > self._destination.keep:
            Path(self._paths.pop(0)).unlink(missing_ok=True)

    def _finish(self, reason: str) -> None:
        file = self._file
        assert self._writer is not None
        assert file is not None
        self._writer.close(reason)
        self._background.put(lambda _: file.close())

    def __enter__(self) -> "Recording":
        return self

    def __exit__(self, *_: object) -> None:
        """Ends it, also after an error elsewhere."""
        try:
            if self._writer is not None:
                self._finish("stopped")
        finally:
            self._background.close()
