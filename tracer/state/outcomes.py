# SPDX-License-Identifier: Apache-2.0
"""Why a connection ended."""

import errno
from collections.abc import Iterable
from enum import IntEnum, IntFlag

import numpy as np
import numpy.typing as npt

from tracer.events.schema import STATES, EventArray, Flag, State


class Direction(IntEnum):
    """Who opened the connection: this end, the other, or it was open before the capture began."""

    UNKNOWN = 0
    ACTIVE = 1
    PASSIVE = 2


class Mark(IntFlag):
    """What has happened in a connection's life and its last event does not tell."""

    RESET_SENT = 1
    RESET_RECEIVED = 2


class Outcome(IntEnum):
    """The names are those of the connection object's `outcome`."""

    ERROR = 0
    CLOSED_LOCAL = 1
    CLOSED_REMOTE = 2
    RESET_RECEIVED = 3
    RESET_SENT = 4
    REFUSED = 5
    TIMEOUT = 6
    UNREACHABLE = 7
    CANCELLED = 8
    NO_PORTS = 9
    ABORTED_IN_QUEUE = 10


#: Errors by number stay below it. Source: include/linux/err.h, MAX_ERRNO.
ERRORS = 4096


def _table(size: int, numbers: Iterable[int]) -> npt.NDArray[np.bool_]:
    """Whether a number is one of *numbers*, by number: shape (size,). Quicker than numpy.isin."""
    table = np.zeros(size, dtype=np.bool_)
    table[list(numbers)] = True
    return table


IS_UNREACHABLE = _table(ERRORS, (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN, errno.ENOPROTOOPT, errno.EACCES))
IS_RESET = _table(ERRORS, (errno.ECONNRESET, errno.EPIPE))
CLOSED_FIRST_HERE = _table(STATES, (State.FIN_WAIT1, State.FIN_WAIT2, State.CLOSING))
CLOSED_FIRST_THERE = _table(STATES, (State.CLOSE_WAIT, State.LAST_ACK))
ABRUPT = _table(STATES, (State.ESTABLISHED, State.SYN_RECV, State.CLOSE_WAIT, State.FIN_WAIT1))
IN_QUEUE = _table(STATES, (State.ESTABLISHED, State.SYN_RECV))


def outcomes(last: EventArray, connections: npt.NDArray[np.void], sees_accepts: bool) -> npt.NDArray[np.uint8]:
    """
    The outcome of each ended connection.

    Args:
        last: shape (m,), EVENT_DTYPE, the transition to CLOSE of each.
        connections: shape (m,), OPEN_DTYPE, what is known of each.
        sees_accepts: a passive connection without an accept was really not accepted.

    Returns:
        Shape (m,), uint8, Outcome. The first rule that fits decides.

    Source:
        net/ipv4/tcp_input.c, tcp_reset, for the errors of a reset: ECONNREFUSED in SYN_SENT, EPIPE in CLOSE_WAIT, else ECONNRESET.
        net/ipv4/tcp.c, __tcp_close, for a close that resets: CLOSE comes before the reset is sent, and without an error.
        inet_csk_listen_stop for children that were never accepted.
    """
    old, error = last["old_state"], np.minimum(last["error"], ERRORS - 1)
    connecting = old == State.SYN_SENT
    no_port = connecting & (connections["sport"] == 0) & ((last["flags"] & Flag.HAS_OWNER) != 0)
    reset_seen = (connections["marks"] & Mark.RESET_RECEIVED) != 0
    reset_sent = (connections["marks"] & Mark.RESET_SENT) != 0
    never_accepted = (connections["direction"] == Direction.PASSIVE) & (connections["accepted_ns"] == 0) & sees_accepts
    rules = (
        (no_port, Outcome.NO_PORTS),
        (connecting & (error == errno.ECONNREFUSED), Outcome.REFUSED),
        (error == errno.ETIMEDOUT, Outcome.TIMEOUT),
        (IS_UNREACHABLE[error], Outcome.UNREACHABLE),
        (connecting & (error == 0), Outcome.CANCELLED),
        (IS_RESET[error] | reset_seen, Outcome.RESET_RECEIVED),
        (error != 0, Outcome.ERROR),
        (never_accepted & IN_QUEUE[old], Outcome.ABORTED_IN_QUEUE),
        (ABRUPT[old] | reset_sent, Outcome.RESET_SENT),
        (CLOSED_FIRST_HERE[old], Outcome.CLOSED_LOCAL),
        (CLOSED_FIRST_THERE[old], Outcome.CLOSED_REMOTE),
    )
    conditions = [condition for condition, _ in rules]
    return np.select(conditions, [np.uint8(outcome) for _, outcome in rules], default=np.uint8(Outcome.ERROR))
