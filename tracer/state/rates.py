# SPDX-License-Identifier: Apache-2.0
"""Connection rates: what happened in each second, by the events' own time."""

import numpy as np
import numpy.typing as npt

from tracer.events.batch import EventBatch
from tracer.events.schema import STATES, EventArray, Kind, State

#: The rows of a rate table, in this order.
RATES = ("events", "opened", "accepted", "established", "closed", "failed", "retransmits", "resets_sent", "resets_received")

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
        columns = seconds - (self._newest - self._counts.shape[1] + 1)
        first, last = max(int(columns.min()), 0), min(int(columns.max()), self._counts.shape[1] - 1)
        if first == last:
            self._counts[:, first] += count(batch.events)
        else:
            for column in range(first, last + 1):
                self._counts[:, column] += count(batch.events[columns == column])

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


#: Kinds of events, a power of two above all that a record can have.
KINDS = 8


def count(events: EventArray) -> npt.NDArray[np.int64]:
    """
    How many of the events count for each of RATES: shape (len(RATES),), for *events* of shape (n,), EVENT_DTYPE.

    An attempt has failed when the network or the host refused it: an error, or no local port. A connect that its own process gave up
    has no error and is not a failure.
    """
    kinds = np.bincount(events["kind"], minlength=KINDS)
    moves = events["old_state"].astype(np.intp) * STATES + events["new_state"]
    moved = np.bincount(moves, minlength=STATES * STATES).reshape(STATES, STATES)
    ended = moved[:, State.CLOSE].sum() - moved[State.LISTEN, State.CLOSE] - moved[State.CLOSE, State.CLOSE]
    unconnected = events[moves == State.SYN_SENT * STATES + State.CLOSE] if moved[State.SYN_SENT, State.CLOSE] else events[:0]
    return np.array(
        [
            len(events),
            moved[State.CLOSE, State.SYN_SENT],
            kinds[Kind.ACCEPT],
            moved[:, State.ESTABLISHED].sum() - moved[State.ESTABLISHED, State.ESTABLISHED],
            ended,
            np.count_nonzero((unconnected["error"] != 0) | (unconnected["sport"] == 0)),
            kinds[Kind.RETRANSMIT],
            kinds[Kind.RESET_SENT],
            kinds[Kind.RESET_RECEIVED],
        ],
        dtype=np.int64,
    )
