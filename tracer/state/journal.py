# SPDX-License-Identifier: Apache-2.0
"""The events of the last seconds, for what only looks at the kernel's table a moment later: a table takes time to be read."""

from collections import deque

import numpy as np

from tracer.events.batch import EventBatch
from tracer.events.records import join, take
from tracer.events.schema import EventArray, no_events

NS = 1_000_000_000
#: 15 MB at most. A table of 20,000 sockets is read in 50 ms, in which a busy host has 10,000 events.
MAX_EVENTS = 1 << 17
MAX_AGE_NS = 10 * NS


class Journal:
    """
    The batches that may still be asked for.

    Args:
        max_events: kept at most, but for the last batch.
    """

    def __init__(self, max_events: int = MAX_EVENTS) -> None:
        self._batches: deque[EventBatch] = deque()
        self._events = 0
        self._max_events = max_events
        # Whatever came before the first batch is missing.
        self._whole_since_ns: int | None = None

    def fold(self, batch: EventBatch) -> None:
        """Adds a batch and drops the ones that are too old or too many."""
        if self._whole_since_ns is None:
            self._whole_since_ns = 0
        if batch.lost:
            self._whole_since_ns = batch.now_ns
        if len(batch):
            self._batches.append(batch)
            self._events += len(batch)
        while self._batches and (
            self._batches[0].now_ns < batch.now_ns - MAX_AGE_NS or (self._events > self._max_events and len(self._batches) > 1)
        ):
            dropped = self._batches.popleft()
            self._events -= len(dropped)
            self._whole_since_ns = max(self._whole_since_ns, dropped.now_ns)

    def whole_since(self, since_ns: int) -> bool:
        """Whether every event from then on is here: none was lost, and none has left the journal."""
        return self._whole_since_ns is not None and since_ns >= self._whole_since_ns

    def since(self, since_ns: int) -> EventArray:
        """The events from then on, in ring order: shape (n,), EVENT_DTYPE."""
        parts = [batch.events for batch in self._batches if batch.now_ns >= since_ns]
        if not parts:
            return no_events()
        events = join(parts)
        return take(events, np.flatnonzero(events["ts_ns"] >= since_ns))
