# SPDX-License-Identifier: Apache-2.0
"""Reading from a pipe so that it can be given up: Python goes on waiting after its signal handlers, however long nothing comes."""

import os
import select
import stat
from collections.abc import Callable
from types import TracebackType

#: How long a wish to stop may stay unnoticed.
GLANCE_S = 0.1


class Pipe:
    """
    What comes through a pipe, until its end, or until there is no more wish for it. A context manager.

    Args:
        descriptor: owned; not blocking where it is a FIFO that nobody may have opened for writing yet.
        stopped: whether to give up.
    """

    def __init__(self, descriptor: int, stopped: Callable[[], bool]) -> None:
        self._descriptor = descriptor
        self._stopped = stopped

    def __enter__(self) -> "Pipe":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._descriptor)

    def read(self, size: int) -> bytes:
        """What is there, at most *size* bytes, as soon as there is anything; nothing at the end."""
        while not self._stopped():
            if select.select([self._descriptor], [], [], GLANCE_S)[0]:
                return os.read(self._descriptor, size)
        return b""


def is_pipe(descriptor: int) -> bool:
    """Whether reading may have to wait for somebody."""
    return not stat.S_ISREG(os.fstat(descriptor).st_mode)
