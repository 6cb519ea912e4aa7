# SPDX-License-Identifier: Apache-2.0
"""The live state of a run, and the snapshots taken of it."""

import platform
import time
from collections import deque

import psutil

from tracer.cli.reconciling import begin_reconciling
from tracer.cli.run import Run
from tracer.events.batch import EventBatch
from tracer.kernel.loader import describe_hooks
from tracer.reconcile.rules import COUNTER_RULES, KNOWN_DIFFERENCES
from tracer.state.live import LiveState, Subject
from tracer.state.recent import Recent
from tracer.state.snapshot import SelfUse, Snapshot

#: Own CPU is told as a share of the last so many seconds.
USE_WINDOW_S = 5.0


class Pictures:
    """
    The live state and the snapshots taken of it. A context manager, since a thread beside it looks at the kernel.

    Attributes:
        state: the state.
        recent: what happened last, for those who set it.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self.recent: Recent | None = None
        facts = run.capture.facts
        self.state = LiveState(
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
        self._spent = deque([(time.monotonic(), self._cpu_s())])

    def fold(self, batch: EventBatch) -> None:
        """Adds a batch, and a sample of the kernel when it is time for one."""
        ended = self.state.fold(batch)
        if self.recent is not None:
            self.recent.fold(batch, ended)
        self._reconciler.apply_if_ready(batch, self.state.reconcile)

    def __enter__(self) -> "Pictures":
        return self

    def __exit__(self, *error: object) -> None:
        self._reconciler.__exit__(*error)

    def take(self) -> Snapshot:
        """The picture now."""
        return self.state.take(self._run.capture.counters(), self._use())

    def _use(self) -> SelfUse:
        now = (time.monotonic(), self._cpu_s())
        self._spent.append(now)
        # The kernel counts CPU time in ticks, so it is measured over some seconds, not over the last picture's time alone.
        while len(self._spent) > 2 and now[0] - self._spent[1][0] >= USE_WINDOW_S:
            self._spent.popleft()
        then = self._spent[0]
        return SelfUse(
            cpu_ratio=round((now[1] - then[1]) / max(now[0] - then[0], 1e-9), 4),
            rss_bytes=self._process.memory_info().rss,
            ring_fill_ratio=round(self._run.capture.ring_high / self._run.capture.ring_capacity, 4),
        )

    def _cpu_s(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)
