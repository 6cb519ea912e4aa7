# SPDX-License-Identifier: Apache-2.0
"""
Playing a recording: the batches at their own pace, or another, with pause and seek.

Seeking forward folds without waiting; seeking back begins anew and folds up to there, so that every picture is the one that was seen.
"""

import time
from contextlib import ExitStack
from enum import Enum
from types import TracebackType

from tracer.cli.pictures import Pictures
from tracer.cli.points import Point
from tracer.cli.reconciling import RecordedReconciler, recorded_counters
from tracer.cli.recorded import RecordedCapture, no_counters
from tracer.cli.run import Run
from tracer.cli.screen_options import ScreenOptions
from tracer.cli.screens import POLL_S, Screen, open_screen
from tracer.events.batch import EventBatch
from tracer.events.filters import UndecidedBirths
from tracer.state.snapshot import Snapshot
from tracer.views.console.charts import clock_text

NS = 1_000_000_000
SEEK_S = 10
#: How long a key may stay unnoticed.
GLANCE_S = 0.05
#: What "max" is slowed down to.
FASTEST = 64.0
#: Nobody sees more pictures a second on a terminal.
LEAST_S = 0.05


class Ending(Enum):
    """Why a pass over the recording ended: at its end, by a key or signal, or to begin anew for a place before."""

    DONE = 1
    QUIT = 2
    REWIND = 3


def play(run: Run, options: ScreenOptions, speed: float, first: Point | None = None, last: Point | None = None) -> None:
    """Plays the recording of a run from one point to another, on the screen or as JSON Lines."""
    assert isinstance(run.capture, RecordedCapture)
    with open_screen(run, options, keys=not run.capture.is_piped) as screen, Player(run, screen, speed, options.json) as player:
        screen.status = player.status
        player.play(options.refresh_s, first, last)


class Player:
    """
    Plays the recording of a run. A context manager.

    Args:
        run: over a recording that has not been read yet.
        screen: where pictures are shown, and keys come from.
        speed: times as fast as it was; infinite: without waiting.
        all_pictures: also those that follow each other faster than a terminal can show.
    """

    def __init__(self, run: Run, screen: Screen, speed: float, all_pictures: bool) -> None:
        assert isinstance(run.capture, RecordedCapture)
        self._capture = run.capture
        self._run = run
        self._screen = screen
        self._speed = speed
        self._all_pictures = all_pictures
        self._paused = False
        self._is_over = False
        self._now_ns = run.began_ns
        self._target: Point | None = None
        self._anchor: tuple[int, float] | None = None
        self._shown: Snapshot | None = None
        self._shown_at = 0.0
        self._opened = ExitStack()

    def __enter__(self) -> "Player":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._opened.close()

    def status(self) -> str:
        """One line: where the replay is, and what the keys do."""
        speed = "max" if self._speed > FASTEST else f"x{self._speed:g}"
        state = "end" if self._is_over else "paused" if self._paused else speed
        at = clock_text((self._now_ns - self._run.began_ns) / NS)
        return f"replay {at} {state}   space pause  left/right {SEEK_S} s  home  +/- speed  ? help  q quit"

    def play(self, refresh_s: float, first: Point | None, last: Point | None) -> None:
        """Plays from one point to another; what is before the first is folded, not shown."""
        self._target = first
        while (ending := self._pass(refresh_s, last)) is not Ending.QUIT:
            if ending is Ending.DONE and not self._is_rewound():
                return
            self._reopen()

    def _is_rewound(self) -> bool:
        """On a terminal the last picture stays until a key says what next: whether to go back."""
        self._target, self._is_over = None, True
        if self._shown is not None and self._screen.reads_keys:
            self._screen.show(self._shown)
        while self._screen.reads_keys and not self._run.stop():
            ending = self._press(self._screen.wait(GLANCE_S))
            if ending is not None:
                self._is_over = False
                return ending is Ending.REWIND
        return False

    def _reopen(self) -> None:
        self._capture = self._opened.enter_context(self._capture.again())
        self._run.capture = self._capture
        self._run.events, self._run.lost, self._run.births = 0, {}, UndecidedBirths()

    def _pass(self, refresh_s: float, last: Point | None) -> Ending:
        pictures, reconciler = Pictures(self._run), RecordedReconciler(self._capture)
        self._screen.attach(pictures)
        shown_ns, counters = self._run.began_ns, no_counters()
        picture: Snapshot | None = None
        is_new = False
        self._anchor = None
        for batch in self._run.batches(0.0):
            if last is not None and last.is_reached(batch, self._run.began_ns):
                break
            ending = self._wait(batch)
            if ending is not None:
                return ending
            pictures.fold(batch)
            is_new = True
            reconciler.apply_if_ready(batch, pictures.reconcile)
            for counters in recorded_counters(self._capture):
                # Taken whether it is shown or not: the state notes what it has looked at.
                picture, is_new = pictures.take(counters), False
                if self._is_wanted(batch, shown_ns, refresh_s):
                    self._show(picture)
                    picture, shown_ns = None, batch.now_ns
        if is_new:  # the end of a recording that was cut off
            picture = pictures.take(counters)
        if picture is not None:
            self._show(picture)
        return Ending.DONE

    def _is_wanted(self, batch: EventBatch, shown_ns: int, refresh_s: float) -> bool:
        if self._target is not None or batch.now_ns - shown_ns <= (refresh_s - POLL_S) * NS:
            return False
        return self._all_pictures or time.monotonic() - self._shown_at >= LEAST_S

    def _show(self, snapshot: Snapshot) -> None:
        self._shown, self._shown_at = snapshot, time.monotonic()
        self._screen.show(snapshot)

    def _wait(self, batch: EventBatch) -> Ending | None:
        """Lets the time pass until a batch is due, and does what the keys say; tells if the pass ends by that."""
        self._now_ns = batch.now_ns
        if self._target is not None:
            if not self._target.is_reached(batch, self._run.began_ns):
                return Ending.QUIT if self._run.stop() else None
            self._target, self._anchor = None, None
        while True:
            left_s = self._left_s(batch.now_ns)
            key = self._screen.wait(GLANCE_S if self._paused else min(max(left_s, 0.0), GLANCE_S))
            ending = self._press(key)
            if key and self._shown is not None:
                self._screen.show(self._shown)
            if self._run.stop():
                return Ending.QUIT
            if ending is not None or self._is_seeking() or (left_s <= GLANCE_S and not self._paused):
                return ending

    def _is_seeking(self) -> bool:
        return self._target is not None

    def _left_s(self, now_ns: int) -> float:
        """Seconds until a batch of that time is due."""
        if self._anchor is None:
            self._anchor = (now_ns, time.monotonic())
        then_ns, then = self._anchor
        return (now_ns - then_ns) / NS / self._speed - (time.monotonic() - then)

    def _press(self, key: str) -> Ending | None:
        """Does what a key says."""
        at_ns = self._now_ns - self._run.began_ns
        if key == "q":
            return Ending.QUIT
        if key == " ":
            self._paused = not self._paused
        elif key == "+":
            self._speed *= 2
        elif key == "-":
            self._speed = min(self._speed, 2 * FASTEST) / 2
        elif key == "right":
            self._target = Point(at_ns + SEEK_S * NS)
        elif key in {"left", "home"}:
            self._target = Point(max(at_ns - SEEK_S * NS, 0) if key != "home" else 0)
            return Ending.REWIND
        if key:
            self._anchor = None
        return None
