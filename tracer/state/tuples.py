# SPDX-License-Identifier: Apache-2.0
"""
Sockets by their addresses and ports, for those whose kernel address is not known.

A tuple is mixed down to 64 bits: among a million sockets two have the same key with a chance of one in 40 million.
"""

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.uint64]

#: A multiplier of splitmix64: odd, with no structure that an address could meet.
MULTIPLIER = np.uint64(0xBF58476D1CE4E5B9)
SHIFT = np.uint64(29)


def tuple_keys(records: npt.NDArray[np.void], with_local_port: bool = True) -> Keys:
    """
    The key of each record: shape (n,).

    Args:
        records: shape (n,), with fields saddr, daddr, sport, dport and netns.
        with_local_port: False: as if no local port had been chosen yet.
    """
    words = np.zeros((len(records), 5), dtype=np.uint64)
    words[:, 0:2] = np.ascontiguousarray(records["saddr"]).view("<u8").reshape(-1, 2)
    words[:, 2:4] = np.ascontiguousarray(records["daddr"]).view("<u8").reshape(-1, 2)
    ports = records["dport"].astype(np.uint64) << np.uint64(16)
    if with_local_port:
        ports |= records["sport"].astype(np.uint64)
    words[:, 4] = ports | (records["netns"].astype(np.uint64) << np.uint64(32))
    return mix(words)


def mix(words: npt.NDArray[np.uint64]) -> Keys:
    """One key of each row of words: shape (n,), from shape (n, k), uint64."""
    keys = np.full(len(words), 0x9E3779B97F4A7C15, dtype=np.uint64)
    for column in words.T:
        keys = (keys ^ column) * MULTIPLIER
        keys ^= keys >> SHIFT
    return keys
