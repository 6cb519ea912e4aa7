# SPDX-License-Identifier: Apache-2.0
"""Keys pressed on the terminal, one at a time and at once; none where standard input is no terminal."""

import os
import select
import sys
import termios
import time
import tty
from types import TracebackType

#: What terminals send for keys that have no character.
ESCAPES = {b"\x1b[A": "up", b"\x1b[B": "down", b"\x1b[C": "right", b"\x1b[D": "left", b"\x1b[H": "home"}


class Keys:
    """
    A context manager: within it keys are neither echoed nor held back until Enter.

    Args:
        enabled: else no key is ever read.
    """

    def __init__(self, enabled: bool = True) -> None:
        self._terminal = sys.stdin.fileno() if enabled and sys.stdin is not None and sys.stdin.isatty() else None
        self._typed = b""

    def __enter__(self) -> "Keys":
        if self._terminal is not None:
            self._before = termios.tcgetattr(self._terminal)
            tty.setcbreak(self._terminal)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._terminal is not None:
            termios.tcsetattr(self._terminal, termios.TCSADRAIN, self._before)

    @property
    def are_read(self) -> bool:
        """Whether any can come."""
        return self._terminal is not None

    def wait(self, seconds: float) -> str:
        """The next key within so many seconds: its character, a name of ESCAPES, or "" for none."""
        if self._terminal is None:
            time.sleep(max(seconds, 0))
            return ""
        if not self._typed and select.select([self._terminal], [], [], max(seconds, 0))[0]:
            self._typed = os.read(self._terminal, 64)
        length = 3 if self._typed[:3] in ESCAPES else 1
        key, self._typed = self._typed[:length], self._typed[length:]
        return ESCAPES.get(key, key.decode(errors="replace"))
