# SPDX-License-Identifier: Apache-2.0
"""
Passive births without a remote end, completed.

Before a3a128f611a9 ("inet: consolidate inet_csk_clone_lock()", v6.15) the kernel announces a child's LISTEN->SYN_RECV before it has given
the child its own addresses and ports; what it has are the listener's. The child's next transition, or its accept if another CPU is
quicker, has them, microseconds later.
"""

import numpy as np
import numpy.typing as npt

from tracer.events.schema import EventArray, Kind, State

#: What the next transition of the same socket tells of a birth.
NAMES = ("saddr", "daddr", "dport", "family")


def unnamed(events: EventArray) -> npt.NDArray[np.bool_]:
    """Which events are passive births whose remote end is not known; shape (n,)."""
    mask: npt.NDArray[np.bool_] = (events["dport"] == 0) & (events["old_state"] == State.LISTEN) & (events["new_state"] == State.SYN_RECV)
    return mask


class BirthNames:
    """
    Names the births of a stream of batches.

    A birth that is its socket's last event in a batch waits for a later batch, for PATIENCE_NS and no longer: where none tells its end,
    it is given as it is. On kernels that name their births nothing waits.
    """

    #: Far longer than the kernel takes to the next transition, unless the machine stops in between or the event was lost.
    PATIENCE_NS = 1_000_000_000

    def __init__(self) -> None:
        self._waiting: EventArray | None = None

    def name(self, events: EventArray, now_ns: int) -> EventArray:
        """
        Args:
            events: shape (n,), EVENT_DTYPE, in ring order, of the caller's own memory.
            now_ns: the monotonic clock.

        Returns:
            Shape (m,): those that waited, then *events*, without those that wait now.
        """
        waited = self.rest()
        if waited is None and not len(events):
            return events
        if waited is not None:
            events = np.concatenate([waited, events])
        last = name_births(events)
        last = last[events["ts_ns"][last] > now_ns - self.PATIENCE_NS]
        if not len(last):
            return events
        self._waiting = events[last]
        return np.delete(events, last)

    def rest(self) -> EventArray | None:
        """Those that wait, if any; they do so no longer."""
        waiting, self._waiting = self._waiting, None
        return waiting


def name_births(events: EventArray) -> npt.NDArray[np.intp]:
    """
    Gives unnamed births, in place, the ends that the same socket's next event in *events* has.

    Args:
        events: shape (n,), EVENT_DTYPE, in ring order, of the caller's own memory.

    Returns:
        Shape (m,): where the births are that stay as they are because they are their socket's last event here.
    """
    births = np.flatnonzero(unnamed(events))
    if not len(births):
        return births
    order = np.argsort(events["sock"], kind="stable")
    place = np.empty(len(events), dtype=np.intp)
    place[order] = np.arange(len(events))
    following = order[np.minimum(place[births] + 1, len(events) - 1)]
    is_last = (following == births) | (events["sock"][births] != events["sock"][following])
    # Another CPU may accept the child before this one has set it to ESTABLISHED.
    is_next = (events["old_state"][following] == State.SYN_RECV) | (events["kind"][following] == Kind.ACCEPT)
    same = ~is_last & is_next
    for name in NAMES:
        events[name][births[same]] = events[name][following[same]]
    last: npt.NDArray[np.intp] = births[is_last]
    return last
