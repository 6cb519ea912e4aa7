# SPDX-License-Identifier: Apache-2.0
"""
Looks at the kernel every few seconds, in a thread that never makes the ring wait: samples are taken here and applied by the reader of
the ring, when it has seen all the events that came before them.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
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
        self._unowned: Keys | None = None
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
        if self._unowned is not None:
            self._unowned = np.concatenate([self._unowned, unowned])

    def _work(self) -> None:
        if self._path is not None:
            try:
                namespaces.enter(self._path)
            except OSError as error:
                self._samples.append(self._sampler.nothing(f"the network namespace cannot be entered: {error.strerror}"))
                return
        table_due, period_s = time.monotonic(), TABLE_PERIOD_S
        while not self._ending.is_set():
            if time.monotonic() < table_due:
                self._samples.append(self._sampler.take(period_s))
            else:
                wanted, self._unowned = self._unowned, NO_KEYS
                sample = self._sampler.take_table(wanted, period_s)
                self._samples.append(sample)
                period_s = min(max(TABLE_PERIOD_S, (sample.cost_s + self._applying_s) / MAX_SHARE), MAX_PERIOD_S)
                table_due = time.monotonic() + period_s
            self._ending.wait(self._period_s)
