# SPDX-License-Identifier: Apache-2.0
"""Recordings as files: opened, put in order, told apart by run, and what is wrong with them in words."""

import os
import stat
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from tracer.cli.pipe import Pipe, is_pipe
from tracer.errors import RecordingError, UsageError

if TYPE_CHECKING:
    from tracer.log.reader import Condition, LogReader  # at run time only where a recording is read: pyarrow takes 25 MB

STDIN = "-"
#: A file that is damaged all over is not described place by place.
DAMAGES_SHOWN = 5


def in_order(readers: list[tuple[str, "LogReader"]]) -> list[tuple[str, "LogReader"]]:
    """
    The files of one run in the order in which they were written.

    Raises:
        UsageError: they are of different runs.
    """
    runs = {(reader.info.boot_id, reader.info.started_ns) for _, reader in readers}
    if len(runs) > 1:
        raise UsageError(f"{len(readers)} recordings of {len(runs)} runs", "give the files of one run; export and query take several runs")
    return sorted(readers, key=lambda named: named[1].info.part)


def by_run(paths: Sequence[str]) -> list[list[str]]:
    """
    The recordings of each run, in the order in which the runs are first named.

    Raises:
        RecordingError: one of them cannot be read.
        UsageError: standard input is one of several.
    """
    if len(paths) < 2:
        return [list(paths)]
    if STDIN in paths:
        raise UsageError("standard input is read once, and alone", "save it to a file first")
    runs: dict[tuple[str, int], list[str]] = {}
    for path in paths:
        with ExitStack() as files:
            info = open_reader(path, files).info
        runs.setdefault((info.boot_id, info.started_ns), []).append(path)
    return list(runs.values())


def open_reader(path: str, files: ExitStack, stopped: Callable[[], bool] = lambda: False) -> "LogReader":
    """
    A reader of a recording; the file is closed with *files*, and a pipe given up when *stopped* says so.

    Raises:
        RecordingError: it cannot be read, or is no recording.
        UsageError: what recordings need is not installed.
    """
    require_pyarrow()
    from tracer.log.reader import LogReader

    stream = open_recording(path, stopped)
    files.enter_context(stream)
    return LogReader(stream, path)


def open_recording(path: str, stopped: Callable[[], bool]) -> Pipe | BinaryIO:
    """
    The bytes of a recording, unbuffered, so that what comes through a pipe is there at once.

    Raises:
        RecordingError: it cannot be read.
    """
    if path == STDIN and (sys.stdin is None or sys.stdin.isatty()):
        raise RecordingError("standard input is no recording", "pipe a recording into it, or name a file")
    try:
        # Not blocking: nobody may have opened a FIFO for writing yet. For a file that means nothing.
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.dup(sys.stdin.fileno()) if path == STDIN else os.open(path, flags)
    except OSError as error:
        raise RecordingError(f"cannot read {path}: {error.strerror}", "give a file that `tcptrace record` wrote") from error
    if stat.S_ISDIR(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise RecordingError(f"{path} is a folder", "give the recording in it")
    return Pipe(descriptor, stopped) if is_pipe(descriptor) else os.fdopen(descriptor, "rb", buffering=0)


def require_pyarrow() -> None:
    """
    Loads pyarrow, which everything in tracer.log needs; comes before any import from there.

    Raises:
        UsageError: pyarrow is not installed.
    """
    # Arrow's own pool keeps what it had at the busiest moment, and reserves 4 MB; that of the C library is no slower here. Read at import.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    try:
        import pyarrow  # noqa: F401  # whether it is there
    except ImportError as error:
        raise UsageError("recordings need pyarrow, which is not installed", "install it: pip install 'tcptrace[log]'") from error


def condition_lines(name: str, condition: "Condition") -> list[str]:
    """What is wrong with a recording that has been read to its end, one line for each thing."""
    if not condition.is_known:
        return []
    lines = [
        f"{name}: bytes {d.position} to {d.position + d.length - 1} are damaged and left out" for d in condition.damage[:DAMAGES_SHOWN]
    ]
    if len(condition.damage) > DAMAGES_SHOWN:
        lines.append(f"{name}: {len(condition.damage) - DAMAGES_SHOWN} more stretches are damaged")
    if condition.damaged_events:
        lines.append(f"{name}: {condition.damaged_events} events are missing for that, and counted as lost")
    if not condition.ended:
        until = f" after {wall_text(condition.last_ns)}" if condition.last_ns else " at all"
        rest = f"; {condition.cut_bytes} bytes of what came next are there and cannot be read" if condition.cut_bytes else ""
        lines.append(f"{name}: its end is missing: nothing is known of what came{until}{rest}")
    return lines


def wall_text(wall_ns: int) -> str:
    """Wall time as RFC 3339, UTC, milliseconds."""
    return f"{np.datetime_as_string(np.datetime64(wall_ns, 'ns'), unit='ms')}Z"
