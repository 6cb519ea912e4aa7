# SPDX-License-Identifier: Apache-2.0
"""Lines on a terminal: only those that have changed, and never so that a slow terminal makes the capture wait."""

import os
import threading
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console, Group
from rich.text import Text


class LinePrinter:
    """
    Turns lines into what a terminal wants; those of the screen before are known already.

    Args:
        console: knows the terminal's colours.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._known: dict[tuple[object, ...], str] = {}

    def print(self, lines: Sequence[Text], width: int) -> list[str]:
        """The lines for a terminal of so many columns, each complete in itself."""
        keys = [(width, line.plain, str(line.style), *line.spans) for line in lines]
        new = {key: line for key, line in zip(keys, lines, strict=True) if key not in self._known}
        printed = dict(zip(new, self._print([*new.values()], width), strict=True)) if new else {}
        self._known = {key: self._known[key] if key in self._known else printed[key] for key in keys}
        return [self._known[key] for key in keys]

    def _print(self, lines: Sequence[Text], width: int) -> list[str]:
        self._console.width = width  # which a variable COLUMNS may have fixed
        with self._console.capture() as capture:
            self._console.print(Group(*lines), no_wrap=True, crop=True, overflow="crop", end="")
        return capture.get().split("\n")[: len(lines)]


def frame(lines: Sequence[str], before: Sequence[str]) -> bytes:
    """What turns a screen that shows *before* into one that shows *lines*."""
    changed = [(row, line) for row, line in enumerate(lines) if row >= len(before) or before[row] != line]
    text = "".join(f"\x1b[{row + 1};1H{line}\x1b[0m\x1b[K" for row, line in changed)
    return text.encode(errors="replace")


class Painter:
    """
    Draws frames from a thread of its own, one at a time. A context manager.

    Args:
        fd: of the terminal.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._shown: list[str] = []
        self._wanted: list[str] | None = None
        self._ready = threading.Condition()
        self._ending = False
        self._thread = threading.Thread(target=self._work, name="painter", daemon=True)

    def __enter__(self) -> "Painter":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._ready:
            self._ending = True
            self._ready.notify_all()
        # A terminal that takes nothing any more is not waited for.
        self._thread.join(timeout=0.5)

    def paint(self, lines: list[str], anew: bool = False) -> None:
        """Shows the lines once the terminal has taken those before; of several that wait for that, the last are shown."""
        with self._ready:
            if anew:
                self._shown = []
            self._wanted = lines
            self._ready.notify_all()

    def _work(self) -> None:
        while True:
            with self._ready:
                self._ready.wait_for(lambda: self._wanted is not None or self._ending)
                if self._wanted is None:
                    return
                data = frame(self._wanted, self._shown)
                self._shown, self._wanted = self._wanted, None
            self._write(data)

    def _write(self, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(self._fd, data) :]
            except OSError:
                return  # gone; whoever reads the keys finds out
