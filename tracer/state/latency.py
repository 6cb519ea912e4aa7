# SPDX-License-Identifier: Apache-2.0
"""How long things took, as percentiles over the last minute: histograms with a constant relative error, so that any range fits."""

import numpy as np
import numpy.typing as npt

from tracer.state.connections import ConnectionArray
from tracer.state.outcomes import Direction

#: Buckets per doubling: neighbouring ones differ by 4.4 %, a percentile by at most half of that.
RESOLUTION = 16
#: Up to 2**46 us, two years.
BUCKETS = 46 * RESOLUTION
PERCENTILES = (50, 90, 99)
#: The window: so many slots of so many seconds.
SLOTS, SLOT_S = 6, 10
NS = 1_000_000_000

LATENCIES = ("handshake", "accept_wait", "lifetime")


class LatencyHistograms:
    """The latencies of what was finished in the last minute, in microseconds."""

    def __init__(self) -> None:
        self._counts = np.zeros((SLOTS, len(LATENCIES), BUCKETS), dtype=np.int64)
        self._slot = 0
        self._until_ns = 0

    def fold(self, connections: ConnectionArray, ended: bool) -> None:
        """
        Adds what has become known since the last call.

        Args:
            connections: shape (n,), open or ended connections; what they went through up to the last call is left out.
            ended: they have ended, and are of ENDED_DTYPE.
        """
        active = connections["direction"] == Direction.ACTIVE
        self._add(0, connections, "opened_ns", "established_ns", active)
        self._add(1, connections, "established_ns", "accepted_ns", ~active)
        if ended:
            self._add(2, connections, "opened_ns", "closed_ns", active | ~active)

    def added_until(self, seen_ns: int) -> None:
        """Says that everything up to then has been added."""
        self._until_ns = seen_ns

    def advance(self, now_ns: int) -> None:
        """Moves the window on; before anything of that time is added."""
        slot = now_ns // (SLOT_S * NS)
        for i in range(min(max(slot - self._slot, 0), SLOTS)):
            self._counts[(slot - i) % SLOTS] = 0
        self._slot = max(slot, self._slot)

    def _add(self, row: int, connections: ConnectionArray, start: str, end: str, chosen: npt.NDArray[np.bool_]) -> None:
        first, last = connections[start].astype(np.int64), connections[end].astype(np.int64)
        fresh = chosen & (first > 0) & (last > self._until_ns)
        microseconds = np.maximum(last[fresh] - first[fresh], 1000) / 1000
        buckets = np.minimum(np.log2(microseconds) * RESOLUTION, BUCKETS - 1).astype(np.intp)
        self._counts[self._slot % SLOTS, row] += np.bincount(buckets, minlength=BUCKETS)

    def percentiles(self) -> dict[str, dict[str, float | int | None]]:
        """By latency: p50, p90 and p99 in microseconds (None where there was none), and how many there were."""
        counts = self._counts.sum(axis=0)
        return {name: percentiles_of(counts[row]) for row, name in enumerate(LATENCIES)}


def percentiles_of(counts: npt.NDArray[np.int64]) -> dict[str, float | int | None]:
    """From the counts of the buckets, shape (BUCKETS,): the middle of the bucket in which each percentile lies."""
    total = int(counts.sum())
    found: dict[str, float | int | None] = {"count": total}
    summed = np.cumsum(counts)
    for percentile in PERCENTILES:
        bucket = int(np.searchsorted(summed, max(total * percentile / 100, 1)))
        found[f"p{percentile}_us"] = round(2 ** ((bucket + 0.5) / RESOLUTION), 1) if total else None
    return found
