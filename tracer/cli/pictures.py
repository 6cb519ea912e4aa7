# SPDX-License-Identifier: Apache-2.0
"""The live state of a run, and the snapshots taken of it."""

import time
from collections import deque

import psutil

from tracer.cli.run import Run
from tracer.events.batch import EventBatch
from tracer.kernel.counters import CounterTotals
from tracer.kernel.loader import describe_hooks
from tracer.reconcile.rules import COUNTER_RULES, KNOWN_DIFFERENCES
from tracer.state.live import LiveState, Subject
from tracer.state.recent import Recent
from tracer.state.samples import Reconciliation
from tracer.state.snapshot import SelfUse, Snapshot
from tracer.state.tuples import Keys

#: Own CPU is told as a share of the last so many seconds.
USE_WINDOW_S = 5.0


class Pictures:
    """
    The live state of a run and the snapshots taken of it; what enters it comes from a capture or from a recording.

    Attributes:
        run: the run.
        state: its state.
        recent: what happened last, where somebody wants to know.
        now_ns, wall_offset_ns: time of the last batch.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.recent: Recent | None = None
        self.now_ns, self.wall_offset_ns = run.began_ns, 0
        facts = run.capture.facts
        self.state = LiveState(
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
        self._spent = deque([(time.monotonic(), self._cpu_s())])

    def fold(self, batch: EventBatch) -> None:
        """Adds a batch."""
        self.now_ns, self.wall_offset_ns = batch.now_ns, batch.wall_offset_ns
        ended = self.state.fold(batch)
        if self.recent is not None:
            self.recent.fold(batch, ended)

    def reconcile(self, sample: Reconciliation) -> Keys:
        """Adds a sample of the kernel; as LiveState.reconcile."""
        return self.state.reconcile(sample)

    def take(self, counters: CounterTotals) -> Snapshot:
        """The picture now, *counters* being those of this moment."""
        return self.state.take(counters, self._use())

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
            ring_fill_ratio=round(self.run.capture.ring_high / self.run.capture.ring_capacity, 4),
        )

    def _cpu_s(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)
