# SPDX-License-Identifier: Apache-2.0
"""The live state, the pictures taken of it, and where they are shown."""

import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

import psutil
from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from tracer.cli.reconciling import begin_reconciling
from tracer.cli.run import Run
from tracer.events.batch import EventBatch
from tracer.kernel.loader import describe_hooks
from tracer.reconcile.rules import COUNTER_RULES, KNOWN_DIFFERENCES
from tracer.state.live import LiveState, Subject
from tracer.state.snapshot import SelfUse, Snapshot, to_json
from tracer.views.console import ASCII_BLOCKS, BLOCKS, render

POLL_S = 0.1

Show: TypeAlias = Callable[[Snapshot], None]


def refresh_until_stopped(run: Run, pictures: "Pictures", show: Show, refresh_s: float) -> None:
    """Folds every batch, and shows a picture each *refresh_s* seconds, and a last one."""
    due = time.monotonic() + refresh_s
    for batch in run.batches(min(POLL_S, refresh_s)):
        run.room(len(batch))
        pictures.fold(batch)
        if time.monotonic() >= due:
            show(pictures.take())
            due = max(due + refresh_s, time.monotonic())
    show(pictures.take())


class Pictures:
    """The live state and the snapshots taken of it. A context manager, since a thread beside it looks at the kernel."""

    def __init__(self, run: Run) -> None:
        self._run = run
        facts = run.capture.facts
        self._state = LiveState(
            Subject(
                host=platform.node(),
                kernel=facts.release,
                hooks=describe_hooks(run.capture.hooks),
                home_netns=facts.home_netns,
                started_ns=time.monotonic_ns(),
                keep=run.capture.plan.keep,
            ),
            COUNTER_RULES,
            KNOWN_DIFFERENCES,
        )
        self._reconciler = begin_reconciling(run)
        self._process = psutil.Process()
        self._cpu = (time.monotonic(), self._cpu_s())

    def fold(self, batch: EventBatch) -> None:
        """Adds a batch, and a sample of the kernel when it is time for one."""
        self._state.fold(batch)
        self._reconciler.apply_if_ready(batch, self._state.reconcile)

    def __enter__(self) -> "Pictures":
        return self

    def __exit__(self, *error: object) -> None:
        self._reconciler.__exit__(*error)

    def take(self) -> Snapshot:
        """The picture now."""
        return self._state.take(self._run.capture.counters(), self._use())

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
def screen(as_json: bool) -> Iterator[Show]:
    """How pictures are shown: as JSON Lines, on the whole terminal, or, where there is none, one block after the other."""
    if as_json:
        yield lambda snapshot: print(to_json(snapshot), flush=True)
        return
    console = Console(highlight=False)
    blocks = BLOCKS if "utf" in console.encoding else ASCII_BLOCKS

    def picture(snapshot: Snapshot) -> RenderableType:
        return render(snapshot, console.width, console.height if console.is_terminal else 24, blocks)

    if console.is_terminal:
        with Live(console=console, screen=True, auto_refresh=False) as terminal:
            terminal.update(Text("tcptrace: waiting for the first second"), refresh=True)
            yield lambda snapshot: terminal.update(picture(snapshot), refresh=True)
    else:
        yield lambda snapshot: console.print(picture(snapshot), Text(""))
