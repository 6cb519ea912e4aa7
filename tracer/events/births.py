# SPDX-License-Identifier: Apache-2.0
"""
Passive births without a remote end, completed.

Before a3a128f611a9 ("inet: consolidate inet_csk_clone_lock()", v6.15) the kernel announces a child's LISTEN->SYN_RECV before it has given
the child its own addresses and ports; what it has are the listener's. The child's next transition, microseconds later, has them.
"""

import numpy as np
import numpy.typing as npt

from tracer.events.schema import EventArray, State

#: What the next transition of the same socket tells of a birth.
NAMES = ("saddr", "daddr", "dport", "family")


def unnamed(events: EventArray) -> npt.NDArray[np.bool_]:
    """Which events are passive births whose remote end is not known; shape (n,)."""
    mask: npt.NDArray[np.bool_] = (events["dport"] == 0) & (events["old_state"] == State.LISTEN) & (events["new_state"] == State.SYN_RECV)
    return mask


def name_births(events: EventArray) -> None:
    """
    Gives unnamed births, in place, the ends that the same socket's next event in *events* has.

    Args:
        events: shape (n,), EVENT_DTYPE, in ring order, of the caller's own memory. A birth that is its socket's last event here stays as
            it is.
    """
    births = np.flatnonzero(unnamed(events))
    if not len(births):
        return
    order = np.argsort(events["sock"], kind="stable")
    place = np.empty(len(events), dtype=np.intp)
    place[order] = np.arange(len(events))
    births = births[place[births] + 1 < len(events)]
    following = order[place[births] + 1]
    same = (events["sock"][births] == events["sock"][following]) & (events["old_state"][following] == State.SYN_RECV)
    for name in NAMES:
        events[name][births[same]] = events[name][following[same]]
