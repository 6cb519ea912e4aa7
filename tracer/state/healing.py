# SPDX-License-Identifier: Apache-2.0
"""
The connection table against the kernel's: what is missing is added, what is gone is removed, and both are counted.

Only what no event has touched since the kernel's table began to be read is judged by it: all else the events know better.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tracer.events.records import take
from tracer.events.schema import EventArray, State
from tracer.state.connections import OPEN_DTYPE, OWNER_NAMES, ConnectionArray, ConnectionTable
from tracer.state.counting import distinct, is_among
from tracer.state.samples import SocketArray
from tracer.state.sockets import PidSource
from tracer.state.tuples import Keys, tuple_keys

Indices = npt.NDArray[np.intp]
Mask = npt.NDArray[np.bool_]

#: Fields that a socket of the kernel's table and a connection have in common.
SAME_NAMES = ("saddr", "daddr", "sport", "dport", "netns", "family", "state", "uid", "cgroup", "tgid", "comm")


@dataclass(frozen=True, slots=True)
class Healing:
    """
    What one look at the kernel's table changed.

    Attributes:
        ours, theirs: connections in our table before it, and in the kernel's.
        missing: added; the kernel has them and we had not.
        ghosts: removed; we had them and the kernel has not.
        restated: whose state was another one.
        owned: whose owner became known.
        unowned: the keys of those that were added and have no owner.
    """

    ours: int
    theirs: int
    missing: int
    ghosts: int
    restated: int
    owned: int
    unowned: Keys


def heal(table: ConnectionTable, sockets: SocketArray, netns: int, begin_ns: int, touching: EventArray) -> Healing:
    """
    Makes the table agree with the kernel's.

    Args:
        table: the connections.
        sockets: shape (n,), the full sockets of the namespace; listeners are left out.
        netns: the namespace.
        begin_ns: when the kernel's table began to be read.
        touching: shape (m,), EVENT_DTYPE: the events from then on.
    """
    theirs = Theirs.of(take(sockets, np.flatnonzero((sockets["state"] != State.LISTEN) & (sockets["state"] != State.CLOSE))))
    rows = table.store.rows()
    rows = rows[table.store.records["netns"][rows] == netns]
    adopted = table.adopted.records()
    adopted = take(adopted, np.flatnonzero(adopted["netns"] == netns))
    ours = len(rows) + len(adopted)
    rows, place, ghosts = drop_ghosts(table, rows, theirs, begin_ns)
    restated = restate(table, rows, place, theirs, begin_ns)
    adopted, where, adopted_ghosts = retire(table, adopted, theirs, place)
    owned = own(table, rows, place, theirs) + own_adopted(table, adopted, where, theirs)
    new = theirs.without(np.concatenate([place, where]))
    new = new[~touched(theirs.sockets, new, touching)]
    new = new[~connecting_already(take(table.store.records, rows[place < 0]), theirs.sockets, new)]
    table.confirm(rows[place >= 0], begin_ns)
    missing = adopt(take(theirs.sockets, new), begin_ns)
    table.adopted.add(missing)
    unowned = theirs.keys[new][missing["pid_source"] == PidSource.NONE]
    return Healing(ours, len(theirs.keys), len(missing), ghosts + adopted_ghosts, restated, owned, unowned)


@dataclass(frozen=True, slots=True)
class Theirs:
    """The kernel's sockets, their keys, and the order that sorts the keys: shape (n,) each."""

    sockets: SocketArray
    keys: Keys
    order: Indices

    @classmethod
    def of(cls, sockets: SocketArray) -> "Theirs":
        keys = tuple_keys(sockets)
        return cls(sockets, keys, np.argsort(keys))

    def places(self, keys: Keys) -> Indices:
        """Where each key is, or -1: shape of *keys*."""
        if not len(self.keys):
            return np.full(len(keys), -1, dtype=np.intp)
        place = self.order[np.minimum(np.searchsorted(self.keys, keys, sorter=self.order), len(self.keys) - 1)]
        return np.where(self.keys[place] == keys, place, -1)

    def without(self, places: Indices) -> Indices:
        """The indices of all sockets but those at *places*, in which -1 stands for nothing."""
        wanted = np.ones(len(self.keys), dtype=np.bool_)
        wanted[places[places >= 0]] = False
        return np.flatnonzero(wanted)


def drop_ghosts(table: ConnectionTable, rows: Indices, theirs: Theirs, begin_ns: int) -> tuple[Indices, Indices, int]:
    """Removes what the kernel's table does not show: the rows that are left, where each is in the kernel's, and how many went."""
    store = table.store
    known = take(store.records, rows)
    keys = tuple_keys(known)
    place = theirs.places(keys)
    # Polling has connections in TIME_WAIT, which the table of full sockets does not show.
    still = (known["seen_ns"] < begin_ns) & (known["state"] != State.TIME_WAIT)
    gone = still & (place < 0) & ~waiting_for_a_port(known, theirs.sockets)
    if len(place) and np.bincount(place[place >= 0], minlength=1).max() > 1:
        gone |= still & superseded(keys, known["seen_ns"])
    if gone.any():
        marked = np.zeros(len(store.records), dtype=np.bool_)
        marked[rows[gone]] = True
        store.drop(store.select(marked))
    return rows[~gone], place[~gone], int(gone.sum())


def touched(sockets: SocketArray, chosen: Indices, touching: EventArray) -> Mask:
    """Which of the chosen sockets an event has touched: shape of *chosen*."""
    ports = np.zeros(1 << 16, dtype=np.bool_)
    ports[sockets["sport"][chosen]] = True
    candidates = np.flatnonzero(ports[touching["sport"]] & (touching["sport"] != 0))
    found: Mask = is_among(tuple_keys(take(sockets, chosen)), tuple_keys(take(touching, candidates)))
    return found


def adopt(sockets: SocketArray, begin_ns: int) -> ConnectionArray:
    """Connections from sockets of the kernel's table: their past is not known, so they are incomplete."""
    connections = np.zeros(len(sockets), dtype=OPEN_DTYPE)
    for name in SAME_NAMES:
        connections[name] = sockets[name]
    connections["pid_source"] = np.where(sockets["tgid"] != 0, PidSource.FD_SCAN, PidSource.NONE)
    connections["seen_ns"] = begin_ns
    connections["incomplete"] = 1
    return connections


def superseded(keys: Keys, seen_ns: npt.NDArray[np.uint64]) -> Mask:
    """Which connections have the addresses of another one that was seen later: shape (n,). A loss hid their ends."""
    order = np.lexsort((seen_ns, keys))
    later = np.zeros(len(keys), dtype=np.bool_)
    later[order[:-1]] = keys[order[1:]] == keys[order[:-1]]
    return later


def waiting_for_a_port(known: ConnectionArray, sockets: SocketArray) -> Mask:
    """
    Which connections in SYN_SENT, whose events told no local port yet, the kernel's table shows with one: shape (n,).

    Of several to the same destination as many as the kernel shows, the youngest first.
    """
    portless = np.flatnonzero(known["sport"] == 0)
    found = np.zeros(len(known), dtype=np.bool_)
    if len(portless):
        counts = portless_counts(sockets)
        for row in portless[np.argsort(known["seen_ns"][portless])[::-1]]:
            key = int(tuple_keys(known[row : row + 1])[0])
            counts[key] = counts.get(key, 0) - 1
            found[row] = counts[key] >= 0
    return found


def portless_counts(sockets: SocketArray) -> dict[int, int]:
    """Sockets in SYN_SENT by their key without the local port."""
    keys = tuple_keys(take(sockets, np.flatnonzero(sockets["state"] == State.SYN_SENT)), with_local_port=False)
    found, _, counts = distinct(keys)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


def connecting_already(portless: ConnectionArray, sockets: SocketArray, chosen: Indices) -> Mask:
    """Which of the chosen sockets are in SYN_SENT and among *portless*, connections whose port no event told yet: shape of *chosen*."""
    mine = np.zeros(len(chosen), dtype=np.bool_)
    portless = take(portless, np.flatnonzero(portless["sport"] == 0))
    if len(portless):
        found, _, counts = distinct(tuple_keys(portless))
        left_over = dict(zip(found.tolist(), counts.tolist(), strict=True))
        keys = tuple_keys(take(sockets, chosen), with_local_port=False).tolist()
        for i in np.flatnonzero(sockets["state"][chosen] == State.SYN_SENT).tolist():
            left_over[keys[i]] = left_over.get(keys[i], 0) - 1
            mine[i] = left_over[keys[i]] >= 0
    return mine


def restate(table: ConnectionTable, rows: Indices, place: Indices, theirs: Theirs, begin_ns: int) -> int:
    """Corrects the states of connections whose events were lost; how many."""
    records = table.store.records
    chosen = np.flatnonzero((place >= 0) & (records["seen_ns"][rows] < begin_ns))
    rows, states = rows[chosen], theirs.sockets["state"][place[chosen]]
    wrong = np.flatnonzero(records["state"][rows] != states)
    records["state"][rows[wrong]] = states[wrong]
    return len(wrong)


def retire(table: ConnectionTable, adopted: ConnectionArray, theirs: Theirs, place: Indices) -> tuple[ConnectionArray, Indices, int]:
    """
    Removes adopted connections that the kernel shows no longer, and those that events show too.

    Returns:
        What is left, where each is in the kernel's table, and how many were of the first kind.
    """
    keys = tuple_keys(adopted)
    where = theirs.places(keys)
    known = np.zeros(len(theirs.keys) + 1, dtype=np.bool_)
    known[place] = True
    known[-1] = False  # for those that are nowhere
    kept = (where >= 0) & ~known[where]
    table.adopted.drop(keys[~kept])
    return take(adopted, np.flatnonzero(kept)), where[kept], int((where < 0).sum())


def own(table: ConnectionTable, rows: Indices, place: Indices, theirs: Theirs) -> int:
    """Gives connections of unknown owner the one that a scan has found; how many."""
    records = table.store.records
    return set_owners(records, rows, place, theirs.sockets)


def own_adopted(table: ConnectionTable, adopted: ConnectionArray, where: Indices, theirs: Theirs) -> int:
    """The same for adopted ones."""
    owned = set_owners(adopted, np.arange(len(adopted)), where, theirs.sockets)
    if owned:
        table.adopted.update(adopted)
    return owned


def set_owners(records: ConnectionArray, rows: Indices, place: Indices, sockets: SocketArray) -> int:
    """Copies the owners of the sockets at *place* to those of the records at *rows* that have none; how many."""
    chosen = np.flatnonzero((place >= 0) & (records["pid_source"][rows] == PidSource.NONE))
    chosen = chosen[sockets["tgid"][place[chosen]] != 0]
    for name in OWNER_NAMES:
        records[name][rows[chosen]] = sockets[name][place[chosen]]
    records["pid_source"][rows[chosen]] = PidSource.FD_SCAN
    return len(chosen)
