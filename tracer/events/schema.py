# SPDX-License-Identifier: Apache-2.0
"""
What an event is: bpf/event.h, for NumPy. The header is the definition; a test compiles it and compares the two.

Source: include/net/tcp_states.h for the states; asm-generic/errno.h, through errno, for the errors.
"""

import errno
from enum import IntEnum, IntFlag

import numpy as np
import numpy.typing as npt


class Kind(IntEnum):
    """enum event_kind; LOST is made in user space, where a batch says that records before it were lost."""

    STATE = 1
    ACCEPT = 2
    RETRANSMIT = 3
    RESET_SENT = 4
    RESET_RECEIVED = 5
    LOST = 255


class Flag(IntFlag):
    """enum event_flags."""

    HAS_OWNER = 1
    HAS_TOTALS = 2
    HAS_BACKLOG = 4
    #: User space only: the owner was found by looking through processes' descriptors.
    OWNER_BY_SCAN = 128


class State(IntEnum):
    """The kernel's TCP states. TIME_WAIT and NEW_SYN_RECV belong to mini-sockets and never appear in an event."""

    ESTABLISHED = 1
    SYN_SENT = 2
    SYN_RECV = 3
    FIN_WAIT1 = 4
    FIN_WAIT2 = 5
    TIME_WAIT = 6
    CLOSE = 7
    CLOSE_WAIT = 8
    LAST_ACK = 9
    LISTEN = 10
    CLOSING = 11
    NEW_SYN_RECV = 12
    BOUND_INACTIVE = 13


#: States index an array of this many, in C and here.
STATES = 16

#: Name by state number; the kernel's own spelling.
STATE_NAMES: tuple[str, ...] = tuple({int(s): s.name for s in State}.get(n, f"STATE_{n}") for n in range(STATES))

#: Name by kind number, as in the event object's `kind`.
KIND_NAMES: dict[int, str] = {kind: kind.name.lower() for kind in Kind}

EVENT_DTYPE = np.dtype(
    [
        ("ts_ns", "<u8"),
        ("sock", "<u8"),
        ("cgroup", "<u8"),
        ("bytes_sent", "<u8"),
        ("bytes_received", "<u8"),
        ("saddr", "V16"),
        ("daddr", "V16"),
        ("comm", "S16"),
        ("netns", "<u4"),
        ("tgid", "<u4"),
        ("uid", "<u4"),
        ("segs_retrans", "<u4"),
        ("srtt_us", "<u4"),
        ("sport", "<u2"),
        ("dport", "<u2"),
        ("error", "<u2"),
        ("kind", "u1"),
        ("old_state", "u1"),
        ("new_state", "u1"),
        ("family", "u1"),
        ("flags", "u1"),
        ("reserved", "u1"),
    ]
)

#: What an accept has in place of another field: the names in the unions of struct event, and the fields of EVENT_DTYPE.
ACCEPT_FIELDS = {"backlog": "segs_retrans", "backlog_max": "srtt_us"}

#: Shape (n,), EVENT_DTYPE.
EventArray = npt.NDArray[np.void]


def no_events() -> EventArray:
    """Shape (0,), EVENT_DTYPE."""
    return np.empty(0, dtype=EVENT_DTYPE)


def error_name(number: int) -> str | None:
    """The symbol of an errno ("ECONNREFUSED"), its number as text where it has none, None for 0."""
    return errno.errorcode.get(number, str(number)) if number else None
