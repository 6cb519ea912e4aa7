# SPDX-License-Identifier: Apache-2.0
"""
The gauges' starting point: the sockets that were open when the counters began to count.

Attach first, then look: the table is read between two readings of the counters, and is exact when nothing has changed in between.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tracer.events.schema import STATES, State
from tracer.reconcile import proc_net, sock_diag


@dataclass(frozen=True, slots=True)
class Baseline:
    """
    Attributes:
        states: shape (STATES,), int64: sockets by state when no transition had been counted yet.
        exact: no transition happened while the table was read; else the gauges may be off by what did.
    """

    states: npt.NDArray[np.int64]
    exact: bool


def state_changes(transitions: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """
    Sockets that entered a state less those that left it: shape (STATES,), from transitions of shape (STATES, STATES), [old][new].

    LISTEN->SYN_RECV is the birth of a child: the listener has not left LISTEN. Source: inet_csk_clone_lock.
    """
    counts = transitions.astype(np.int64)
    entered, left = counts.sum(axis=0), counts.sum(axis=1)
    left[State.LISTEN] -= counts[State.LISTEN, State.SYN_RECV]
    change: npt.NDArray[np.int64] = entered - left
    return change


def count_sockets() -> Counter[int]:
    """Full sockets by state in this network namespace: through sock_diag, or, on a kernel without it, the text tables."""
    try:
        return sock_diag.count_states()
    except OSError:
        return proc_net.read_states()


def take_baseline(read_transitions: Callable[[], npt.NDArray[np.uint64]]) -> Baseline:
    """
    Reads the socket table once, and tells whether the counters stood still meanwhile.

    Args:
        read_transitions: the counters of this network namespace, shape (STATES, STATES).
    """
    before = read_transitions()
    sockets = count_sockets()
    after = read_transitions()
    counted = np.array([sockets[state] for state in range(STATES)], dtype=np.int64)
    return Baseline(counted - state_changes(after), exact=bool((before == after).all()))
