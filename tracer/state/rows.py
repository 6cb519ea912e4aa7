# SPDX-License-Identifier: Apache-2.0
"""A bounded table of records by socket: a dictionary from kernel address to row, and the rows in one NumPy array."""

import numpy as np
import numpy.typing as npt

from tracer.events.records import Records, put, take

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
        self._rows: dict[int, int] = {}
        self._free: list[int] = []
        self.records: Records = np.zeros(64, dtype=dtype)
        self.forgotten = 0

    def __len__(self) -> int:
        return len(self._rows)

    def rows(self) -> npt.NDArray[np.intp]:
        """The rows in use: shape (len(self),)."""
        return np.fromiter(self._rows.values(), dtype=np.intp, count=len(self._rows))

    def get(self, socks: npt.NDArray[np.uint64]) -> Records:
        """The record of each socket, all zero where there is none: shape of *socks*, a copy."""
        rows = self._find(socks)
        found = take(self.records, rows)
        found[rows < 0] = np.zeros(1, dtype=self.records.dtype)
        return found

    def put(self, socks: npt.NDArray[np.uint64], records: Records) -> None:
        """Sets the record of each socket; *socks* without repetition."""
        rows = self._find(socks)
        for i in np.flatnonzero(rows < 0).tolist():
            rows[i] = self._rows[int(socks[i])] = self._free.pop() if self._free else len(self._rows)
        if len(rows):
            self._grow(int(rows.max()) + 1)
            put(self.records, rows, records)
        if len(self._rows) > self._limit:
            self._forget()

    def select(self, marked: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint64]:
        """The sockets whose rows are marked: *marked* of shape (capacity,)."""
        return np.array([sock for sock, row in self._rows.items() if marked[row]], dtype=np.uint64)

    def drop(self, socks: npt.NDArray[np.uint64]) -> None:
        """Forgets the records of these sockets, where there are any."""
        for sock in socks.tolist():
            row = self._rows.pop(sock, None)
            if row is not None:
                self._free.append(row)

    def _find(self, socks: npt.NDArray[np.uint64]) -> npt.NDArray[np.intp]:
        """The row of each socket, or -1."""
        known = self._rows.get
        return np.array([known(sock, -1) for sock in socks.tolist()], dtype=np.intp)

    def _forget(self) -> None:
        excess = len(self._rows) - self._limit + int(self._limit * FORGET_SHARE)
        socks = np.fromiter(self._rows.keys(), dtype=np.uint64, count=len(self._rows))
        ages = self.records[self._age][self.rows()]
        self.drop(socks[np.argsort(ages, kind="stable")[:excess]])
        self.forgotten += excess

    def _grow(self, needed: int) -> None:
        capacity = len(self.records)
        if needed > capacity:
            # In place where the allocator can: half a gigabyte is not to be there twice.
            self.records.resize(max(needed, capacity + capacity // 8), refcheck=False)
