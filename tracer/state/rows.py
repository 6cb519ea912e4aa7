# SPDX-License-Identifier: Apache-2.0
"""A bounded table of records by socket: a dictionary from kernel address to row, and the rows in one NumPy array."""

import numpy as np
import numpy.typing as npt

Records = npt.NDArray[np.void]


class RowStore:
    """
    Args:
        dtype: of a record.
        limit: records kept at most; beyond it those put longest ago are forgotten.

    Attributes:
        records: shape (capacity,), all rows, used or not; rows() tells which are.
        forgotten: how many records were dropped because of the limit.
    """

    def __init__(self, dtype: np.dtype[np.void], limit: int) -> None:
        self._limit = limit
        self._rows: dict[int, int] = {}
        self._free: list[int] = []
        self.records: Records = np.zeros(64, dtype=dtype)
        self.forgotten = 0

    def __len__(self) -> int:
        return len(self._rows)

    def rows(self) -> npt.NDArray[np.intp]:
        """The rows in use, oldest first: shape (len(self),)."""
        return np.fromiter(self._rows.values(), dtype=np.intp, count=len(self._rows))

    def get(self, socks: npt.NDArray[np.uint64]) -> Records:
        """The record of each socket, all zero where there is none: shape of *socks*, a copy."""
        found = np.zeros(len(socks), dtype=self.records.dtype)
        if len(self._rows):
            rows = np.array([self._rows.get(sock, -1) for sock in socks.tolist()], dtype=np.intp)
            found[rows >= 0] = self.records[rows[rows >= 0]]
        return found

    def put(self, socks: npt.NDArray[np.uint64], records: Records) -> None:
        """Sets the record of each socket; *socks* without repetition. They become the youngest."""
        rows = np.empty(len(socks), dtype=np.intp)
        for i, sock in enumerate(socks.tolist()):
            row = self._rows.pop(sock, -1)
            if row < 0:
                row = self._free.pop() if self._free else len(self._rows)
            self._rows[sock] = rows[i] = row
        if len(rows):
            self._grow(int(rows.max()) + 1)
            self.records[rows] = records
        while len(self._rows) > self._limit:
            self._free.append(self._rows.pop(next(iter(self._rows))))
            self.forgotten += 1

    def select(self, marked: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint64]:
        """The sockets whose rows are marked: *marked* of shape (capacity,), in the order of rows()."""
        return np.array([sock for sock, row in self._rows.items() if marked[row]], dtype=np.uint64)

    def drop(self, socks: npt.NDArray[np.uint64]) -> None:
        """Forgets the records of these sockets, where there are any."""
        for sock in socks.tolist():
            row = self._rows.pop(sock, None)
            if row is not None:
                self._free.append(row)

    def _grow(self, needed: int) -> None:
        capacity = len(self.records)
        if needed > capacity:
            more = max(needed - capacity, capacity // 4)
            self.records = np.concatenate([self.records, np.zeros(more, dtype=self.records.dtype)])
