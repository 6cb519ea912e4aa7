# SPDX-License-Identifier: Apache-2.0
"""
Connections that are known by their addresses only: from the kernel's table, which does not tell the address of the socket itself.

An event of such a connection brings the two together.
"""

import numpy as np
import numpy.typing as npt

from tracer.events.records import Records, put, take
from tracer.events.schema import EventArray
from tracer.state.counting import distinct
from tracer.state.rows import RowStore
from tracer.state.tuples import Keys, tuple_keys


class AdoptedConnections:
    """
    Args:
        dtype: of a connection.
        limit: connections kept at most.
    """

    def __init__(self, dtype: np.dtype[np.void], limit: int) -> None:
        self._store = RowStore(dtype, "seen_ns", limit)

    def __len__(self) -> int:
        return len(self._store)

    @property
    def forgotten(self) -> int:
        """How many were, because of the limit."""
        return self._store.forgotten

    def add(self, connections: Records) -> None:
        """Adds connections; of several with the same addresses and ports the last is kept."""
        keys = tuple_keys(connections)
        _, last, _ = distinct(keys[::-1])
        chosen = len(keys) - 1 - last
        self._store.put(keys[chosen], take(connections, chosen))

    def fill(self, carried: Records, events: EventArray, first: npt.NDArray[np.intp]) -> None:
        """
        Gives each life that nothing is remembered of the connection of its addresses, which then belongs here no longer.

        Args:
            carried: shape (n,), what is remembered of each life: seen_ns is 0 where that is nothing. Changed in place.
            events: shape (m,), EVENT_DTYPE.
            first: shape (n,), index of the first event of each.
        """
        unknown = np.flatnonzero(carried["seen_ns"] == 0)
        if not len(unknown):
            return
        # Of several lives with the same addresses the first one is meant: the kernel keeps no two such sockets at a time.
        keys, one, _ = distinct(tuple_keys(take(events, first[unknown])))
        put(carried, unknown[one], self._store.get(keys))
        self._store.drop(keys)

    def records(self) -> Records:
        """The connections: shape (len(self),), a copy."""
        return take(self._store.records, self._store.rows())

    def keys(self) -> Keys:
        """Their keys, in the order of records()."""
        return tuple_keys(self.records())

    def drop(self, keys: Keys) -> None:
        """Forgets the connections of these keys, where there are any."""
        self._store.drop(keys)

    def update(self, connections: Records) -> None:
        """Replaces connections that are here by others of the same addresses."""
        self._store.put(tuple_keys(connections), connections)
