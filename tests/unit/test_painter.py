# SPDX-License-Identifier: Apache-2.0
"""The thread that draws: what a slow terminal gets, and that the last picture is never left out."""

import fcntl
import os
import select
from collections.abc import Iterator

import pyte
import pytest

from tests.kernel.conftest import wait_until
from tracer.cli.painter import Painter

COLUMNS, ROWS = 40, 10


class SlowTerminal:
    """A pipe that takes little at a time, and the screen of what was read from it."""

    def __init__(self) -> None:
        self._from, self.fd = os.pipe()
        fcntl.fcntl(self.fd, fcntl.F_SETPIPE_SZ, 4096)
        self._screen = pyte.Screen(COLUMNS, ROWS)
        self._stream = pyte.ByteStream(self._screen)

    def lines(self) -> list[str]:
        """What it shows, once it has read what there was."""
        while select.select([self._from], [], [], 0)[0]:
            self._stream.feed(os.read(self._from, 4096))
        return [line.rstrip() for line in self._screen.display]

    def is_full(self) -> bool:
        return not select.select([], [self.fd], [], 0)[1]

    def close(self) -> None:
        os.close(self._from)
        os.close(self.fd)


@pytest.fixture
def terminal() -> Iterator[SlowTerminal]:
    terminal = SlowTerminal()
    yield terminal
    terminal.close()


def picture(text: str) -> list[str]:
    return [f"{text} {row}" for row in range(ROWS)]


def test_the_last_picture_is_shown_even_if_the_terminal_was_busy_when_it_came(terminal: SlowTerminal) -> None:
    with Painter(terminal.fd) as painter:
        painter.paint(["\x1b[m" * 4000])
        wait_until(terminal.is_full, "the terminal to be full")
        for name in ("first", "second", "last"):
            painter.paint(picture(name))
        wait_until(lambda: terminal.lines() == picture("last"), "the last picture")


def test_a_picture_drawn_anew_replaces_what_something_else_has_written(terminal: SlowTerminal) -> None:
    with Painter(terminal.fd) as painter:
        painter.paint(picture("same"))
        wait_until(lambda: terminal.lines() == picture("same"), "the picture")
        os.write(terminal.fd, b"\x1b[2J")
        wait_until(lambda: terminal.lines() == [""] * ROWS, "an empty screen")
        painter.paint(picture("same"), anew=True)
        wait_until(lambda: terminal.lines() == picture("same"), "the picture again")
