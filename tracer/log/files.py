# SPDX-License-Identifier: Apache-2.0
"""The files that a recording is written to: whose they are, what stands in their way, what is left when there is no more room."""

import os
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from tracer.errors import OutputError, UsageError

STDOUT: Final = "-"
#: The owner alone may read who talks to whom.
MODE: Final = 0o600


def sudo_owner() -> tuple[int, int] | None:
    """User and group behind sudo, if this is root on behalf of another."""
    user, group = os.environ.get("SUDO_UID", ""), os.environ.get("SUDO_GID", "")
    if os.geteuid() != 0 or not (user.isdecimal() and group.isdecimal()):
        return None
    return int(user), int(group)


def check_new_file(path: str, force: bool) -> None:
    """
    Refuses early what open_for_writing() would refuse, without making or replacing anything.

    Raises:
        UsageError: as there.
    """
    target = Path(path)
    if target.is_dir():
        raise UsageError(f"cannot write {path}: it is a folder", "give the name of a file, such as run.arrows")
    if os.path.lexists(path) and not force:
        raise UsageError(f"{path} exists", "give another name, or --force to replace it")
    if not target.parent.is_dir():
        raise UsageError(f"cannot write {path}: there is no folder {target.parent}", "make the folder first, or give another name")
    if not os.access(target.parent, os.W_OK):
        raise UsageError(f"cannot write {path}: permission denied or read-only", "give a file in a folder that you may write to")


def open_for_writing(path: str, force: bool) -> int:
    """
    A descriptor for writing: of a new file, of a FIFO or device that is there, or of standard output for "-".

    A file that is there is replaced with *force*: another program that reads it keeps the old one. Opening a FIFO waits for its reader.

    Raises:
        UsageError: a file is there and *force* is not given, or none can be made.
    """
    if path == STDOUT:
        if sys.stdout.isatty():
            raise UsageError("a recording is not for a terminal", "redirect standard output, or give -o a file")
        return os.dup(sys.stdout.fileno())
    try:
        if is_stream(path):
            return os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        if force:
            with suppress(FileNotFoundError):
                Path(path).unlink()
        return create(path)
    except FileExistsError:
        raise UsageError(f"{path} exists", "give another name, or --force to replace it") from None
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}", "give a file that you may write, in a folder that exists") from error


def create(path: str) -> int:
    """A new file, which must not exist; it belongs to the user behind sudo."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE)
    owner = sudo_owner()
    if owner is not None:
        with suppress(OSError):  # a file system without owners
            os.fchown(descriptor, *owner)
    return descriptor


def is_stream(path: str) -> bool:
    """Whether there is something that is written to but not made: a FIFO, a socket or a device."""
    try:
        mode = Path(path).stat().st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or stat.S_ISSOCK(mode)


class OutputFile:
    """
    Whole frames to one descriptor, which it owns.

    Attributes:
        bytes: written so far.
    """

    def __init__(self, descriptor: int, name: str) -> None:
        self._descriptor = descriptor
        self._name = name
        self.bytes = 0

    def write(self, frame: bytes) -> None:
        """
        Writes all of it; a frame that finds no room is taken back, so that the file ends with a whole one.

        Raises:
            OutputError: no room.
            BrokenPipeError: the reader has gone.
        """
        left = memoryview(frame)
        try:
            while left:
                left = left[os.write(self._descriptor, left) :]
        except BrokenPipeError:
            raise
        except OSError as error:
            with suppress(OSError):  # a pipe
                os.ftruncate(self._descriptor, self.bytes)
            raise OutputError(
                f"cannot write {self._name}: {error.strerror}: the recording ends here",
                "what was written can be read; free some space, or bound it with --max-size, --rotate-size and --keep",
            ) from error
        self.bytes += len(frame)

    def close(self) -> None:
        """Closes the file, once the disk has it."""
        with suppress(OSError):  # a pipe, or a disk that is full: the writing has said so
            os.fsync(self._descriptor)
        os.close(self._descriptor)
