# SPDX-License-Identifier: Apache-2.0
"""
Writing in a thread of its own, so that a slow disk does not keep the ring waiting.

What waits is bounded. When there is no room the caller waits too: then records stay in the ring, and the kernel counts what finds no
room there. Loss is counted where it happens, never here.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import Final

#: At 6 bytes an event some 3 million events: a stall of several seconds under full load.
ROOM_BYTES: Final = 16 << 20


class BackgroundWriter:
    """
    Does what is asked for, one after the other, in a thread.

    Args:
        room_bytes: how much may wait; a single larger piece may too, when nothing else waits.

    Attributes:
        longest_wait: bytes that ever waited at most.
    """

    def __init__(self, room_bytes: int = ROOM_BYTES) -> None:
        self._room = room_bytes
        self._queue: deque[tuple[Callable[[bytes], object], bytes]] = deque()
        self._waiting = 0
        self._changed = threading.Condition()
        self._closing = False
        self._error: BaseException | None = None
        self.longest_wait = 0
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def put(self, work: Callable[[bytes], object], data: bytes = b"") -> None:
        """
        Asks for *work(data)*; waits while there is no room.

        Raises:
            Exception: what an earlier piece of work has raised; nothing is done after it.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._error or not self._waiting or self._waiting + len(data) <= self._room)
            self._raise()
            self._queue.append((work, data))
            self._waiting += len(data)
            self.longest_wait = max(self.longest_wait, self._waiting)
            self._changed.notify_all()

    def close(self) -> None:
        """
        Waits until all is done.

        Raises:
            Exception: as put().
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closing)
                if not self._queue:
                    return
                work, data = self._queue[0]
            try:
                work(data)
            except BaseException as error:  # it is raised to whom it concerns
                with self._changed:
                    self._error = error
                    self._queue.clear()
                    self._waiting = 0
                    self._changed.notify_all()
                return
            with self._changed:
                self._queue.popleft()
                self._waiting -= len(data)
                self._changed.notify_all()
