# SPDX-License-Identifier: Apache-2.0
"""Sockets in TIME_WAIT as what they are to their host: holders of local ports, a hundred thousand of them put into a few kilobytes."""

from dataclasses import dataclass, replace

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


class Holders:
    """
    Takes sockets in TIME_WAIT some at a time, so that they are never all in memory.

    Attributes:
        total: how many there were.
    """

    def __init__(self) -> None:
        self.total = 0
        self._used = np.zeros(PORTS, dtype=np.bool_)
        self._parts = [np.zeros(0, dtype=DESTINATION_DTYPE)]

    def add(self, total: int, sport: npt.NDArray[np.uint16], dport: npt.NDArray[np.uint16], daddr: npt.NDArray[np.void]) -> None:
        """So many sockets, of which these have an ephemeral port: shape (n,) each, addresses of 16 bytes."""
        self.total += total
        self._used[sport] = True
        part = np.zeros(len(sport), dtype=DESTINATION_DTYPE)
        part["address"], part["port"], part["held"] = daddr, dport, 1
        self._parts.append(added_up(part))

    def join(self, other: "Holders") -> None:
        """Those that another has taken."""
        self.total += other.total
        self._used |= other._used
        self._parts += other._parts

    def time_wait(self) -> TimeWait:
        """What all of them hold."""
        destinations = added_up(np.concatenate(self._parts))
        most = np.argsort(-destinations["held"].astype(np.int64), kind="stable")[:DESTINATIONS]
        return TimeWait(self.total, np.packbits(self._used), destinations[most])


def too_many() -> TimeWait:
    """So many that they cannot be read."""
    return replace(Holders().time_wait(), total=None)


def added_up(destinations: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
    """Each destination once, with what is held for it in all: shape (m,), from shape (n,), DESTINATION_DTYPE."""
    first, held = sums(destination_keys(destinations["address"], destinations["port"]), destinations["held"].astype(np.int64))
    found = destinations[first]
    found["held"] = held
    return found


def destination_keys(addresses: npt.NDArray[np.void], ports: npt.NDArray[np.uint16]) -> Keys:
    """One key for each destination: shape (n,), from 16-byte addresses and ports of shape (n,)."""
    halves = np.ascontiguousarray(addresses).view("<u8").reshape(-1, 2)
    return mix(np.column_stack([halves, ports.astype(np.uint64)]))
