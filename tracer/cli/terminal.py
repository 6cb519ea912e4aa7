# SPDX-License-Identifier: Apache-2.0
"""
The terminal of the console: keys one at a time, the alternate screen, and everything put back whatever happens.

A stopped console (Ctrl-Z) gives the terminal back and takes it again when it is continued in the foreground; in the background it draws
nothing.
"""

import os
import select
import signal
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

#: What terminals send, xterm's and the console's; source: ctlseqs, "PC-Style Function Keys", and terminfo's linux entry.
SEQUENCES = {
    b"\x1b[A": "up",
    b"\x1b[B": "down",
    b"\x1b[C": "right",
    b"\x1b[D": "left",
    b"\x1bOA": "up",
    b"\x1bOB": "down",
    b"\x1bOC": "right",
    b"\x1bOD": "left",
    b"\x1b[5~": "page_up",
    b"\x1b[6~": "page_down",
    b"\x1b[H": "home",
    b"\x1b[F": "end",
    b"\x1b[1~": "home",
    b"\x1b[4~": "end",
    b"\x1b[Z": "back_tab",
    b"\t": "tab",
    b"\r": "enter",
    b"\n": "enter",
    b"\x7f": "backspace",
    b"\x08": "backspace",
    b"\x15": "kill_line",
    b"\x0c": "redraw",
}
#: A lone escape is the key itself when nothing follows for so long; over ssh a sequence may come in two parts.
ESCAPE_S = 0.03

ENTER_SCREEN = b"\x1b[?1049h\x1b[?25l\x1b[2J"
LEAVE_SCREEN = b"\x1b[0m\x1b[?25h\x1b[?1049l"


def decode_keys(data: bytes) -> tuple[list[str], bytes]:
    """
    The keys in what a terminal sent, and what may be the beginning of another.

    A character is its own name; others have one of SEQUENCES. What cannot be understood is left out.
    """
    keys: list[str] = []
    while data:
        key, used = _first_key(data)
        if not used:
            break
        keys += [key] if key else []
        data = data[used:]
    return keys, data


def _first_key(data: bytes) -> tuple[str, int]:
    """The first key ("" for none) and how many bytes it takes; 0 where its end is still to come."""
    if data[0] != 0x1B:
        if data[:1] in SEQUENCES:
            return SEQUENCES[data[:1]], 1
        return _first_character(data)
    if len(data) == 1:
        return "", 0
    if data[1:2] not in (b"[", b"O"):
        return "escape", 1
    for end in range(2, len(data)):
        if 0x40 <= data[end] <= 0x7E:
            return SEQUENCES.get(data[: end + 1], ""), end + 1
    return "", 0


def _first_character(data: bytes) -> tuple[str, int]:
    """A character of UTF-8, or nothing for a byte that is none."""
    first = data[0]
    length = 1 if first < 0xC2 else 2 if first < 0xE0 else 3 if first < 0xF0 else 4 if first < 0xF5 else 1
    try:
        character = data[:length].decode()
    except UnicodeDecodeError as error:
        return "", 0 if error.reason == "unexpected end of data" else 1
    return (character if character.isprintable() else ""), length


class Terminal:
    """
    Args:
        fd: of the terminal, for both directions.

    Attributes:
        active: it is ours: not stopped, not in the background, not gone.
        gone: it has hung up.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._saved: list[Any] | None = None
        self._rest = b""
        self._changed = True
        self.active = False
        self.gone = False

    def enter(self) -> None:
        """Takes the terminal, if this is its foreground process."""
        with suppress(termios.error, OSError):
            if os.tcgetpgrp(self.fd) != os.getpgrp():
                return
            self._saved = self._saved or termios.tcgetattr(self.fd)
            tty.setcbreak(self.fd, termios.TCSADRAIN)
            self._write(ENTER_SCREEN)
            self.active = self._changed = True

    def leave(self) -> None:
        """Gives it back as it was."""
        if self.active and self._saved is not None:
            self.active = False
            self._write(LEAVE_SCREEN)
            with suppress(termios.error, OSError):
                termios.tcsetattr(self.fd, termios.TCSADRAIN, self._saved)

    def _write(self, data: bytes) -> None:
        try:
            os.write(self.fd, data)
        except OSError:
            self.gone = True

    def has_changed(self) -> bool:
        """Whether the screen must be drawn anew, since it was entered or resized; once."""
        changed, self._changed = self._changed, False
        return changed

    def size(self) -> tuple[int, int]:
        """Columns and lines."""
        try:
            size = os.get_terminal_size(self.fd)
        except OSError:
            return 80, 24
        return size.columns or 80, size.lines or 24

    def keys(self) -> list[str]:
        """The keys pressed since the last call; never waits for one."""
        if not self.active:
            self.enter()  # a shell that brings a running job to the foreground does not say so
        data = self._rest
        while self.active and self._is_readable(ESCAPE_S if data == b"\x1b" else 0):
            try:
                more = os.read(self.fd, 1024)
            except OSError:
                more = b""
            if not more:
                self.gone = True
                break
            data += more
        if data == b"\x1b":
            self._rest = b""
            return ["escape"]
        keys, self._rest = decode_keys(data)
        return keys

    def _is_readable(self, wait_s: float) -> bool:
        return bool(select.select([self.fd], [], [], wait_s)[0])

    def resized(self, _signal: int = 0, _frame: FrameType | None = None) -> None:
        self._changed = True

    def stop(self, _signal: int = 0, _frame: FrameType | None = None) -> None:
        """Ctrl-Z: as if there were no console."""
        self.leave()
        before = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        # Here it goes on after SIGCONT, whose handler takes the terminal again.
        signal.signal(signal.SIGTSTP, before)

    def continued(self, _signal: int = 0, _frame: FrameType | None = None) -> None:
        """Stopped by a signal that cannot be caught, or in the background until now."""
        self.enter()


@contextmanager
def console_terminal(fd: int) -> Iterator[Terminal]:
    """A terminal in use, with its signals; given back at the end, whatever the end is."""
    terminal = Terminal(fd)
    handlers: dict[int, Callable[[int, FrameType | None], None]] = {
        signal.SIGWINCH: terminal.resized,
        signal.SIGTSTP: terminal.stop,
        signal.SIGCONT: terminal.continued,
    }
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    # Setting up a terminal from the background would stop the process.
    ttou = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    try:
        terminal.enter()
        yield terminal
    finally:
        terminal.leave()
        signal.signal(signal.SIGTTOU, ttou)
        for number, handler in before.items():
            signal.signal(number, handler)
