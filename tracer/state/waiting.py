# SPDX-License-Identifier: Apache-2.0
"""Sockets in TIME_WAIT as what they are to their host: holders of local ports, a hundred thousand of them put into a few kilobytes."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tracer.state.counting import sums
from tracer.state.tuples import Keys, mix

PORTS = 1 << 16
#: Of so many destinations it is kept how many ports are held for them: those with the most.
DESTINATIONS = 200

#: What a port is held for: another host's address and port; and how many are.
DESTINATION_DTYPE = np.dtype([("address", "V16"), ("port", "<u2"), ("held", "<u4")])


@dataclass(frozen=True, slots=True)
class TimeWait:
    """
    Attributes:
        total: sockets in TIME_WAIT; None where they were too many to be read, and the rest is empty then.
        ports: shape (PORTS / 8,), uint8: a bit for each ephemeral port that one of them holds, the highest bit first.
        destinations: shape (n,), DESTINATION_DTYPE: what most ephemeral ports are held for, by falling number.
    """

    total: int | None
    ports: npt.NDArray[np.uint8]
    destinations: npt.NDArray[np.void]

    def held(self) -> npt.NDArray[np.bool_]:
        """Which local ports are held: shape (PORTS,)."""
        return np.unpackbits(self.ports).astype(np.bool_)


def time_wait_of(total: int | None, holders: npt.NDArray[np.void]) -> TimeWait:
    """
    What the sockets hold, from those that have an ephemeral port.

    Args:
        total: of all.
        holders: shape (n,), with fields sport, dport and daddr.
    """
    used = np.zeros(PORTS, dtype=np.bool_)
    used[holders["sport"]] = True
    first, held = sums(destination_keys(holders["daddr"], holders["dport"]), np.ones(len(holders), dtype=np.int64))
    most = np.argsort(-held, kind="stable")[:DESTINATIONS]
    destinations = np.zeros(len(most), dtype=DESTINATION_DTYPE)
    chosen = holders[first[most]]
    destinations["address"], destinations["port"], destinations["held"] = chosen["daddr"], chosen["dport"], held[most]
    return TimeWait(total, np.packbits(used), destinations)


def destination_keys(addresses: npt.NDArray[np.void], ports: npt.NDArray[np.uint16]) -> Keys:
    """One key for each destination: shape (n,), from 16-byte addresses and ports of shape (n,)."""
    halves = np.ascontiguousarray(addresses).view("<u8").reshape(-1, 2)
    return mix(np.column_stack([halves, ports.astype(np.uint64)]))
