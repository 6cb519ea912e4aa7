# SPDX-License-Identifier: Apache-2.0
"""A batch: the unit in which events travel through user space, together with what was lost before them."""

from dataclasses import dataclass, field

from tracer.events.schema import EventArray


@dataclass(frozen=True, slots=True)
class EventBatch:
    """
    Events in ring order, which is the order in which the kernel reserved their records.

    Attributes:
        events: shape (n,), EVENT_DTYPE, owned by the batch; n == 0 is a valid batch (it may still carry a loss).
        now_ns: CLOCK_MONOTONIC when the batch was taken; no event in it is younger.
        wall_offset_ns: wall time minus CLOCK_MONOTONIC when the batch was taken.
        lost: events that happened since the batch before and are missing here, by reason; absent reasons are 0.
    """

    events: EventArray
    now_ns: int
    wall_offset_ns: int
    lost: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.events)

    @property
    def lost_total(self) -> int:
        return sum(self.lost.values())
