# SPDX-License-Identifier: Apache-2.0
"""
A dictionary from kernel address to row number that looks up whole arrays of addresses at once.

A hash table of buckets of eight: a look-up compares one bucket, 64 bytes, with its address. What does not fit into its bucket, some in a
thousand, is in an ordinary dictionary.
"""

import numpy as np
import numpy.typing as npt

BUCKET = 8
#: Addresses per bucket on average at most; at 3, four in a thousand buckets are full.
FILL = 3
#: 2**64 divided by the golden ratio: neighbouring addresses get buckets far apart. Source: Knuth, TAOCP 3, 6.4.
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)

Socks = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.intp]


class SocketIndex:
    """Row numbers by socket; no address is 0."""

    def __init__(self) -> None:
        self._make(bits=4)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def _make(self, bits: int) -> None:
        self._shift = np.uint64(64 - bits)
        self._socks = np.zeros((1 << bits, BUCKET), dtype=np.uint64)
        self._rows = np.zeros((1 << bits, BUCKET), dtype=np.int32)
        self._overflow: dict[int, int] = {}

    def items(self) -> tuple[Socks, Rows]:
        """All sockets, and the row of each; in no order."""
        used = self._socks != 0
        socks = np.concatenate([self._socks[used], np.fromiter(self._overflow.keys(), np.uint64)])
        rows = np.concatenate([self._rows[used], np.fromiter(self._overflow.values(), np.int32)])
        return socks, rows.astype(np.intp)

    def find(self, socks: Socks) -> Rows:
        """The row of each socket, or -1: shape of *socks*."""
        bucket, place, found = self._look(socks)
        rows = np.where(found, self._rows[bucket, place], -1).astype(np.intp)
        if self._overflow:
            for i in np.flatnonzero(~found).tolist():
                rows[i] = self._overflow.get(int(socks[i]), -1)
        return rows

    def add(self, socks: Socks, rows: Rows) -> None:
        """Adds sockets that are not there, without repetition."""
        if self._count + len(socks) > len(self._socks) * FILL:
            self._grow(self._count + len(socks))
        self._count += len(socks)
        bucket = self._bucket(socks)
        left = np.arange(len(socks))
        # One round, and another for those that wanted the same place.
        while len(left):
            places = self._socks[bucket[left]] == 0
            room = places.any(axis=1)
            for i in left[~room].tolist():
                self._overflow[int(socks[i])] = int(rows[i])
            left, place = left[room], places[room].argmax(axis=1)
            self._socks[bucket[left], place] = socks[left]
            won = self._socks[bucket[left], place] == socks[left]
            self._rows[bucket[left[won]], place[won]] = rows[left[won]]
            left = left[~won]

    def remove(self, socks: Socks) -> Rows:
        """Removes those that are there, without repetition; their rows."""
        bucket, place, found = self._look(socks)
        rows = self._rows[bucket[found], place[found]]
        self._socks[bucket[found], place[found]] = 0
        if self._overflow:
            others = [self._overflow.pop(int(sock)) for sock in socks[~found] if int(sock) in self._overflow]
            rows = np.concatenate([rows, np.array(others, dtype=np.int32)])
        self._count -= len(rows)
        return rows.astype(np.intp)

    def _bucket(self, socks: Socks) -> Rows:
        return ((socks * MULTIPLIER) >> self._shift).astype(np.intp)

    def _look(self, socks: Socks) -> tuple[Rows, Rows, npt.NDArray[np.bool_]]:
        """The bucket of each socket, its place there, and whether it is there."""
        bucket = self._bucket(socks)
        same = self._socks.take(bucket, axis=0) == socks[:, None]
        place = same.argmax(axis=1)
        return bucket, place, same[np.arange(len(socks)), place]

    def _grow(self, count: int) -> None:
        socks, rows = self.items()
        self._make(bits=max((count // FILL).bit_length(), 4) + 1)
        self._count = 0
        self.add(socks, rows)
