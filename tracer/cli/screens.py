# SPDX-License-Identifier: Apache-2.0
"""Where pictures are shown: as JSON Lines, as blocks of plain text, or in the console on a terminal."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console

from tracer.cli.console import ConsoleScreen, ConsoleView
from tracer.cli.painter import Painter
from tracer.cli.pictures import Pictures
from tracer.cli.reconciling import Reconciling
from tracer.cli.run import Run
from tracer.cli.screen_options import ScreenOptions
from tracer.cli.terminal import console_terminal
from tracer.events.batch import EventBatch
from tracer.kernel.counters import CounterTotals
from tracer.state.samples import Reconciliation
from tracer.state.snapshot import Snapshot, to_json
from tracer.state.tuples import Keys
from tracer.views.console.controls import Controls
from tracer.views.console.panels import Look
from tracer.views.console.screen import plain_lines
from tracer.views.console.theme import ASCII, EMOJI, THEMES, UNICODE

POLL_S = 0.1
#: Lines of a plain block that its panels may share.
PLAIN_ROWS = 30


class Screen(Protocol):
    """
    Attributes:
        refresh_s: seconds between two pictures; the user may change it.
        reads_keys: keys are read, so that a user can say what next.
        status: what stands in the last line instead of the keys.
    """

    reads_keys: bool
    status: Callable[[], str] | None

    @property
    def refresh_s(self) -> float: ...

    def attach(self, pictures: Pictures) -> None:
        """Says whose pictures come; again when they begin anew."""

    def show(self, snapshot: Snapshot) -> None:
        """Shows a picture."""

    def glance(self) -> bool:
        """Does what the keys say that were pressed meanwhile; whether the user wants to leave."""

    def wait(self, seconds: float) -> str:
        """Waits, doing what keys say; returns early with a key that is about the replay, else ""."""


class KeylessScreen:
    """What screens without a terminal have in common."""

    reads_keys = False
    status: Callable[[], str] | None = None

    def __init__(self, refresh_s: float) -> None:
        self.refresh_s = refresh_s

    def attach(self, pictures: Pictures) -> None:
        pass

    def glance(self) -> bool:
        return False

    def wait(self, seconds: float) -> str:
        time.sleep(max(seconds, 0))
        return ""


class JsonScreen(KeylessScreen):
    """One object a line."""

    def show(self, snapshot: Snapshot) -> None:
        print(to_json(snapshot), flush=True)


class PlainScreen(KeylessScreen):
    """One block of text for each picture, for a file, a pipe, or a terminal that can nothing else."""

    def __init__(self, refresh_s: float, console: Console, look: Look) -> None:
        super().__init__(refresh_s)
        self._view = ConsoleView(Controls(refresh_s=refresh_s))
        self._console, self._look = console, look

    def attach(self, pictures: Pictures) -> None:
        self._view.attach(pictures)

    def show(self, snapshot: Snapshot) -> None:
        self._view.advance(snapshot)
        for line in plain_lines(self._view.picture(PLAIN_ROWS), self._console.width, self._look):
            line.rstrip()
            self._console.print(line, no_wrap=True, overflow="crop")
        self._console.print()


@contextmanager
def open_screen(run: Run, options: ScreenOptions, keys: bool = True) -> Iterator[Screen]:
    """The screen that is wanted, or that the terminal allows; without *keys* standard input is not for us."""
    if options.json:
        yield JsonScreen(options.refresh_s)
        return
    console = Console(highlight=False, soft_wrap=True)
    signs = ASCII if "utf" not in console.encoding.lower() else EMOJI if options.emoji else UNICODE
    look = Look(THEMES[options.theme], signs)
    if options.once or not keys or not is_capable():
        yield PlainScreen(options.refresh_s, console, look)
        return
    with console_terminal(sys.stdin.fileno()) as terminal, Painter(sys.stdout.fileno()) as painter:
        run.capture.wake_on(terminal.fd)
        yield ConsoleScreen(terminal, painter, console, look, options.refresh_s)


def is_capable() -> bool:
    """Whether there is a terminal that can place text."""
    return sys.stdout.isatty() and sys.stdin.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown", "")


def refresh_until_stopped(run: Run, reconciler: Reconciling, pictures: Pictures, screen: Screen, once: bool = False) -> None:
    """Folds every batch, and shows a picture at each refresh, and a last one."""
    screen.attach(pictures)
    due = time.monotonic() + (screen.refresh_s if not screen.reads_keys else 0)
    for batch in run.batches(min(POLL_S, screen.refresh_s)):
        run.room(len(batch))
        pictures.fold(batch)
        reconciler.apply_if_ready(batch, pictures.reconcile)
        if screen.glance():
            run.stop.ask()
        if time.monotonic() >= due:
            if once:
                run.stop.ask()
                break
            screen.show(pictures.take(run.capture.counters()))
            due = max(due + screen.refresh_s, time.monotonic())
    screen.show(pictures.take(run.capture.counters()))


class ShownPictures:
    """Pictures that are shown while something else is done with what enters them."""

    def __init__(self, run: Run, screen: Screen) -> None:
        self._run = run
        self._pictures = Pictures(run)
        self._screen = screen
        screen.attach(self._pictures)

    def fold(self, batch: EventBatch) -> None:
        """Adds a batch; the user may end the run meanwhile."""
        self._pictures.fold(batch)
        if self._screen.glance():
            self._run.stop.ask()

    def reconcile(self, sample: Reconciliation) -> Keys:
        """Adds a sample of the kernel; as LiveState.reconcile."""
        return self._pictures.reconcile(sample)

    def show(self, counters: CounterTotals) -> None:
        """Takes a picture and shows it."""
        self._screen.show(self._pictures.take(counters))
