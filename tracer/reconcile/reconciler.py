# SPDX-License-Identifier: Apache-2.0
"""
Looks at the kernel every few seconds, in a thread that never makes the ring wait: samples are taken here and applied by the reader of
the ring, when it has seen all the events that came before them.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from tracer.events.batch import EventBatch
from tracer.reconcile import namespaces
from tracer.reconcile.sampling import Sampler
from tracer.state.samples import Reconciliation
from tracer.state.tuples import Keys

#: Between two looks at the counters, and at the socket table at least.
PERIOD_S = 1.0
TABLE_PERIOD_S = 2.0
#: All of it may take at most this share of one core.
MAX_SHARE = 0.02
MAX_PERIOD_S = 60.0
#: One reading may cost more than the last one did.
MARGIN = 1.25
#: Events whose time was read before, but that reached the ring a moment later.
SETTLED_NS = 1_000_000

NO_KEYS: Keys = np.zeros(0, dtype=np.uint64)


class Reconciler:
    """
    A thread that takes samples. A context manager: leaving it ends the thread.

    Args:
        sampler: takes them.
        path: of the network namespace to look at; None: our own.
        period_s: between two looks at the counters.
    """

    def __init__(self, sampler: Sampler, path: Path | None = None, period_s: float = PERIOD_S) -> None:
        self._sampler = sampler
        self._path = path
        self._period_s = period_s
        self._ending = threading.Event()
        self._unowned: Keys | None = NO_KEYS
        self._baseline_owned = False
        self._applying_s = 0.0
        self._samples: deque[Reconciliation] = deque()
        self._thread = threading.Thread(target=self._work, name="reconciler", daemon=True)
        self._thread.start()

    def __enter__(self) -> "Reconciler":
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    def ready(self, batch: EventBatch) -> Reconciliation | None:
        """The next sample, once *batch* shows that all events from before it have been read; else None."""
        if not self._samples:
            return None
        settled = self._samples[0].end_ns + SETTLED_NS
        if batch.now_ns < settled or (len(batch) and int(batch.events["ts_ns"][-1]) < settled):
            return None
        return self._samples.popleft()

    def apply_if_ready(self, batch: EventBatch, apply: Callable[[Reconciliation], Keys]) -> None:
        """
        Applies the next sample when it is time for it.

        Args:
            batch: the last one that was folded.
            apply: adds a sample to a state, and returns the keys of connections whose owners are to be looked for next time.
        """
        sample = self.ready(batch)
        if sample is None:
            return
        before = time.thread_time()
        unowned = apply(sample)
        self._applying_s = time.thread_time() - before
        # The owners of what the first table shows are being looked for already.
        self._baseline_owned = self._baseline_owned or (sample.dump is not None and sample.dump.owners)
        if self._baseline_owned and self._unowned is not None:
            self._unowned = np.concatenate([self._unowned, unowned])

    def _work(self) -> None:
        if self._path is not None:
            try:
                namespaces.enter(self._path)
            except OSError as error:
                self._samples.append(self._sampler.nothing(f"the network namespace cannot be entered: {error.strerror}"))
                return
        pace = Pace()
        # At once, so that little can happen until it is applied; then another one, with the owners of what this one shows.
        self._samples.append(self._sampler.take_table(NO_KEYS, pace.period_s))
        self._unowned = None
        while not self._ending.is_set():
            if not pace.table_is_due():
                sample = self._sampler.take(pace.period_s)
                pace.spend(sample.cost_s)
            else:
                wanted: Keys | None = self._unowned
                self._unowned = NO_KEYS
                sample = self._sampler.take_table(wanted, pace.period_s)
                if wanted is None and (sample.dump is None or not sample.dump.owners):
                    self._unowned = None  # there was no table yet to look in
                pace.spend(sample.cost_s + self._applying_s, self._sampler.waiting_s)
                sample = replace(sample, share=pace.next_table())
            self._samples.append(sample)
            self._ending.wait(self._period_s)


class Pace:
    """
    How often the socket table is read: seldom enough that all samples together stay below MAX_SHARE.

    Attributes:
        period_s: between two readings.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: float | None = None
        self._spent_s = 0.0
        self._paced_s = 0.0
        self.period_s = TABLE_PERIOD_S

    def table_is_due(self) -> bool:
        return self._last is None or self._clock() >= self._last + self.period_s

    def spend(self, cost_s: float, paced_s: float = 0.0) -> None:
        """Adds CPU time that samples have cost; *paced_s* is what has a pace of its own, and does not stretch this one's periods."""
        self._spent_s += cost_s
        self._paced_s += paced_s

    def next_table(self) -> float:
        """Begins the next period after a reading of the table; the share of one core that the last one has taken, 0 for the first."""
        now, last = self._clock(), self._last
        share = (self._spent_s + self._paced_s) / (now - last) if last is not None else 0.0
        self.period_s = min(max(TABLE_PERIOD_S, self._spent_s * MARGIN / MAX_SHARE), MAX_PERIOD_S)
        self._last, self._spent_s, self._paced_s = now, 0.0, 0.0
        return share
