# SPDX-License-Identifier: Apache-2.0
"""Connection rates: what happened in each second, by the events' own time."""

import numpy as np
import numpy.typing as npt

from tracer.events.batch import EventBatch
from tracer.events.schema import EventArray, Kind, State

#: The rows of a rate table, in this order.
RATES = ("events", "opened", "accepted", "established", "closed", "failed")

NS = 1_000_000_000


class RateTable:
    """
    Counts per second over the last *seconds* seconds.

    Seconds are those of wall time, so that the bars of two hosts line up. Events of a second that has left the table are not
    counted (they cannot be: a batch is never that old).
    """

    def __init__(self, seconds: int = 60) -> None:
        self._counts = np.zeros((len(RATES), seconds), dtype=np.int64)
        self._newest = 0

    @property
    def newest(self) -> int:
        """The last second in the table, as Unix time; it is still running."""
        return self._newest

    def fold(self, batch: EventBatch) -> None:
        """Adds a batch, and moves on to the second in which it was taken."""
        self._advance((batch.now_ns + batch.wall_offset_ns) // NS)
        if not len(batch):
            return
        seconds = (batch.events["ts_ns"].astype(np.int64) + batch.wall_offset_ns) // NS
        width = self._counts.shape[1]
        column = seconds - (self._newest - width + 1)
        inside = (column >= 0) & (column < width)
        for row, happened in enumerate(classify(batch.events)):
            self._counts[row] += np.bincount(column[inside & happened], minlength=width)

    def _advance(self, second: int) -> None:
        width = self._counts.shape[1]
        step = min(max(second - self._newest, 0), width)
        if step:
            self._counts = np.concatenate([self._counts[:, step:], np.zeros((len(RATES), step), dtype=np.int64)], axis=1)
            self._newest = second

    def counts(self) -> npt.NDArray[np.int64]:
        """Shape (len(RATES), seconds), a copy, oldest second first; the last column is the running second."""
        return self._counts.copy()

    def per_second(self) -> dict[str, int]:
        """Each rate over the last full second."""
        return dict(zip(RATES, self._counts[:, -2].tolist(), strict=True))


def classify(events: EventArray) -> tuple[npt.NDArray[np.bool_], ...]:
    """
    Which events count for each of RATES: len(RATES) masks of shape (n,).

    An attempt has failed when the network or the host refused it: an error, or no local port. A connect that its own process gave up
    has no error and is not a failure.
    """
    is_state = events["kind"] == Kind.STATE
    old, new = events["old_state"], events["new_state"]
    closes = is_state & (new == State.CLOSE) & (old != State.LISTEN) & (old != State.CLOSE)
    return (
        np.ones(len(events), dtype=np.bool_),
        is_state & (old == State.CLOSE) & (new == State.SYN_SENT),
        events["kind"] == Kind.ACCEPT,
        is_state & (new == State.ESTABLISHED) & (old != State.ESTABLISHED),
        closes,
        closes & (old == State.SYN_SENT) & ((events["error"] != 0) | (events["sport"] == 0)),
    )
