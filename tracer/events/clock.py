# SPDX-License-Identifier: Apache-2.0
"""
From the kernel's monotonic time to wall time.

Events carry CLOCK_MONOTONIC, which never jumps but stops while the host is suspended. So the distance to wall time is measured
again for each batch; it is replaced only when it moved by more than reading two clocks can explain, so that the times within a
run stay as regular as the events were, and are right again in the first batch after a suspension or a clock step.
"""

import time
from collections.abc import Callable

#: Reading the two clocks after each other, with an interrupt in between, differs by far less; a leap or a step is far more.
TOLERANCE_NS = 50_000_000


def measure_wall_offset_ns() -> int:
    """Wall time minus CLOCK_MONOTONIC, nanoseconds; the best of three readings, since a preemption spoils one."""
    readings = []
    for _ in range(3):
        before = time.monotonic_ns()
        wall = time.time_ns()
        after = time.monotonic_ns()
        readings.append((after - before, wall - (before + after) // 2))
    return min(readings)[1]


class WallClock:
    """The offset to add to an event's `ts_ns`; see the module."""

    def __init__(self, measure: Callable[[], int] = measure_wall_offset_ns) -> None:
        self._measure = measure
        self._offset_ns = measure()

    def offset_ns(self) -> int:
        """The offset that is in force now, nanoseconds."""
        measured = self._measure()
        if abs(measured - self._offset_ns) > TOLERANCE_NS:
            self._offset_ns = measured
        return self._offset_ns
