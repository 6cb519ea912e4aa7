# SPDX-License-Identifier: Apache-2.0
"""A bounded table of records by socket: an index from kernel address to row, and the rows in one NumPy array."""

import numpy as np
import numpy.typing as npt

from tracer.events.records import Records, put, take
from tracer.state.index import SocketIndex

#: Finding the oldest means looking at all; so that it is seldom, some more go at once.
FORGET_SHARE = 0.01


class RowStore:
    """
    Args:
        dtype: of a record.
        age: name of the field that orders records by age; the smallest is the oldest.
        limit: records kept at most; beyond it the oldest are forgotten, FORGET_SHARE of them at a time.

    Attributes:
        records: shape (capacity,), all rows, used or not; rows() tells which are.
        forgotten: how many records were dropped because of the limit.
    """

    def __init__(self, dtype: np.dtype[np.void], age: str, limit: int) -> None:
        self._age = age
        self._limit = limit
        self._index = SocketIndex()
        self._free = np.zeros(0, dtype=np.intp)
        self.records: Records = np.zeros(64, dtype=dtype)
        self.forgotten = 0

    def __len__(self) -> int:
        return len(self._index)

    def rows(self) -> npt.NDArray[np.intp]:
        """The rows in use: shape (len(self),), rising."""
        return np.sort(self._index.items()[1])

    def get(self, socks: npt.NDArray[np.uint64]) -> Records:
        """The record of each socket, all zero where there is none: shape of *socks*, a copy."""
        rows = self._index.find(socks)
        found = take(self.records, rows)
        put(found, rows < 0, np.zeros(1, dtype=self.records.dtype))
        return found

    def put(self, socks: npt.NDArray[np.uint64], records: Records) -> None:
        """Sets the record of each socket; *socks* without repetition."""
        rows = self._index.find(socks)
        new = np.flatnonzero(rows < 0)
        if len(new):
            rows[new] = self._allot(len(new))
            self._index.add(socks[new], rows[new])
        put(self.records, rows, records)
        if len(self) > self._limit:
            self._forget()

    def select(self, marked: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint64]:
        """The sockets whose rows are marked: *marked* of shape (capacity,)."""
        socks, rows = self._index.items()
        return socks[marked[rows]]

    def drop(self, socks: npt.NDArray[np.uint64]) -> None:
        """Forgets the records of these sockets, where there are any; *socks* without repetition."""
        if len(self):
            self._free = np.concatenate([self._free, self._index.remove(socks)])

    def _allot(self, count: int) -> npt.NDArray[np.intp]:
        """Rows that are not in use: those given back first, then new ones. Used and free rows have no gap between them."""
        given_back, self._free = self._free[:count], self._free[count:]
        first = len(self) + len(given_back) + len(self._free)
        rows = np.concatenate([given_back, np.arange(first, first + count - len(given_back))])
        self._grow(first + count - len(given_back))
        return rows

    def _forget(self) -> None:
        excess = len(self) - self._limit + int(self._limit * FORGET_SHARE)
        socks, rows = self._index.items()
        self.drop(socks[np.argsort(self.records[self._age][rows], kind="stable")[:excess]])
        self.forgotten += excess

    def _grow(self, needed: int) -> None:
        capacity = len(self.records)
        if needed > capacity:
            # In place where the allocator can: half a gigabyte is not to be there twice.
            self.records.resize(max(needed, capacity + capacity // 8), refcheck=False)
