# SPDX-License-Identifier: Apache-2.0
"""The live state, the pictures taken of it, and where they are shown."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

import psutil
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from tracer.cli.reconciling import Reconciling
from tracer.cli.run import Run
from tracer.events.batch import EventBatch
from tracer.kernel.counters import CounterTotals
from tracer.kernel.loader import describe_hooks
from tracer.reconcile.rules import COUNTER_RULES, KNOWN_DIFFERENCES
from tracer.state.live import LiveState, Subject
from tracer.state.samples import Reconciliation
from tracer.state.snapshot import SelfUse, Snapshot, to_json
from tracer.state.tuples import Keys
from tracer.views.console import ASCII_BLOCKS, BLOCKS, render

POLL_S = 0.1

Show: TypeAlias = Callable[[Snapshot], None]


def refresh_until_stopped(run: Run, reconciler: Reconciling, pictures: "Pictures", show: Show, refresh_s: float) -> None:
    """Folds every batch, and shows a picture each *refresh_s* seconds, and a last one."""
    due = time.monotonic() + refresh_s
    for batch in run.batches(min(POLL_S, refresh_s)):
        run.room(len(batch))
        pictures.fold(batch)
        reconciler.apply_if_ready(batch, pictures.reconcile)
        if time.monotonic() >= due:
            show(pictures.take(run.capture.counters()))
            due = max(due + refresh_s, time.monotonic())
    show(pictures.take(run.capture.counters()))


class Pictures:
    """The live state and the snapshots taken of it; what enters it comes from a capture or from a recording."""

    def __init__(self, run: Run) -> None:
        self._run = run
        facts = run.capture.facts
        self._state = LiveState(
            Subject(
                host=run.host,
                kernel=facts.release,
                hooks=describe_hooks(run.capture.hooks),
                home_netns=facts.home_netns,
                started_ns=run.began_ns,
                keep=run.keep,
            ),
            COUNTER_RULES,
            KNOWN_DIFFERENCES,
        )
        self._process = psutil.Process()
        self._cpu = (time.monotonic(), self._cpu_s())

    def fold(self, batch: EventBatch) -> None:
        """Adds a batch."""
        self._state.fold(batch)

    def reconcile(self, sample: Reconciliation) -> Keys:
        """Adds a sample of the kernel; as LiveState.reconcile."""
        return self._state.reconcile(sample)

    def take(self, counters: CounterTotals) -> Snapshot:
        """The picture now, *counters* being those of this moment."""
        return self._state.take(counters, self._use())

    def _use(self) -> SelfUse:
        before, (then, spent) = (time.monotonic(), self._cpu_s()), self._cpu
        self._cpu = before
        elapsed = max(before[0] - then, 1e-9)
        return SelfUse(
            cpu_ratio=round((before[1] - spent) / elapsed, 4),
            rss_bytes=self._process.memory_info().rss,
            ring_fill_ratio=round(self._run.capture.ring_high / self._run.capture.ring_capacity, 4),
        )

    def _cpu_s(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)


@contextmanager
def screen(as_json: bool, footer: Callable[[], str] | None = None) -> Iterator[Show]:
    """
    How pictures are shown: as JSON Lines, on the whole terminal, or, where there is none, one block after the other.

    Args:
        as_json: the first of these.
        footer: a line below each picture on the terminal.
    """
    if as_json:
        yield lambda snapshot: print(to_json(snapshot), flush=True)
        return
    console = Console(highlight=False)
    blocks = BLOCKS if "utf" in console.encoding else ASCII_BLOCKS

    def picture(snapshot: Snapshot) -> RenderableType:
        if footer is None or not console.is_terminal:
            return render(snapshot, console.width, console.height if console.is_terminal else 24, blocks)
        line = Text(footer(), style="reverse", no_wrap=True, overflow="ellipsis")
        return Group(render(snapshot, console.width, console.height - 1, blocks), line)

    if console.is_terminal:
        with Live(console=console, screen=True, auto_refresh=False) as terminal:
            terminal.update(Text("tcptrace: waiting for the first second"), refresh=True)
            yield lambda snapshot: terminal.update(picture(snapshot), refresh=True)
    else:
        yield lambda snapshot: console.print(picture(snapshot), Text(""))


class ShownPictures:
    """Pictures that are shown while something else is done with what enters them."""

    def __init__(self, pictures: Pictures, show: Show) -> None:
        self._pictures = pictures
        self._show = show

    def fold(self, batch: EventBatch) -> None:
        """Adds a batch."""
        self._pictures.fold(batch)

    def reconcile(self, sample: Reconciliation) -> Keys:
        """Adds a sample of the kernel; as LiveState.reconcile."""
        return self._pictures.reconcile(sample)

    def show(self, counters: CounterTotals) -> None:
        """Takes a picture and shows it."""
        self._show(self._pictures.take(counters))


@contextmanager
def shown_pictures(run: Run, as_json: bool) -> Iterator[ShownPictures]:
    """Pictures of the run on the screen, or as JSON Lines."""
    with screen(as_json) as show:
        yield ShownPictures(Pictures(run), show)
