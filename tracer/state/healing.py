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
    sockets = take(sockets, np.flatnonzero((sockets["state"] != State.LISTEN) & (sockets["state"] != State.CLOSE)))
    theirs = Theirs(sockets, tuple_keys(sockets))
    adopted = table.adopted.records()
    rows = table.store.rows()
    rows = rows[table.store.records["netns"][rows] == netns]
    ours = len(rows) + int((adopted["netns"] == netns).sum())
    rows, keys, ghosts = drop_ghosts(table, rows, theirs, begin_ns)
    adopted, adopted_ghosts = retire(table, adopted, netns, theirs, keys)
    still = table.store.records["seen_ns"][rows] < begin_ns
    restated = restate(table, rows[still], keys[still], theirs)
    owned = own(table, rows, keys, adopted, theirs)
    touched = tuple_keys(take(touching, np.flatnonzero(touching["sport"] != 0)))
    new = ~np.isin(theirs.keys, np.concatenate([keys, tuple_keys(adopted), touched]))
    new &= ~connecting_already(take(table.store.records, rows), sockets)
    missing = adopt(take(sockets, np.flatnonzero(new)), begin_ns)
    table.adopted.add(missing)
    unowned = tuple_keys(missing)[missing["pid_source"] == PidSource.NONE]
    return Healing(ours, len(sockets), len(missing), ghosts + adopted_ghosts, restated, owned, unowned)


@dataclass(frozen=True, slots=True)
class Theirs:
    """The kernel's sockets and their keys: shape (n,) each."""

    sockets: SocketArray
    keys: Keys


def drop_ghosts(table: ConnectionTable, rows: Indices, theirs: Theirs, begin_ns: int) -> tuple[Indices, Keys, int]:
    """Removes what the kernel's table does not show; the rows that are left, their keys, and how many went."""
    store = table.store
    known = take(store.records, rows)
    keys = tuple_keys(known)
    still = known["seen_ns"] < begin_ns
    gone = still & ~np.isin(keys, theirs.keys) & ~waiting_for_a_port(known, theirs.sockets)
    gone |= still & superseded(keys, known["seen_ns"])
    if gone.any():
        marked = np.zeros(len(store.records), dtype=np.bool_)
        marked[rows[gone]] = True
        store.drop(store.select(marked))
    return rows[~gone], keys[~gone], int(gone.sum())


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
    found, counts = np.unique(keys, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


def connecting_already(known: ConnectionArray, sockets: SocketArray) -> Mask:
    """Which sockets in SYN_SENT are among *known* without their port: shape (n,)."""
    portless = np.flatnonzero(known["sport"] == 0)
    mine = np.zeros(len(sockets), dtype=np.bool_)
    if len(portless):
        found, counts = np.unique(tuple_keys(take(known, portless)), return_counts=True)
        left_over = dict(zip(found.tolist(), counts.tolist(), strict=True))
        keys = tuple_keys(sockets, with_local_port=False)
        for i in np.flatnonzero(sockets["state"] == State.SYN_SENT).tolist():
            left_over[int(keys[i])] = left_over.get(int(keys[i]), 0) - 1
            mine[i] = left_over[int(keys[i])] >= 0
    return mine


def positions(keys: Keys, here: Keys) -> Indices:
    """Where in *here* each key is, or -1: shape of *keys*."""
    if not len(here):
        return np.full(len(keys), -1, dtype=np.intp)
    order = np.argsort(here)
    place = order[np.minimum(np.searchsorted(here, keys, sorter=order), len(here) - 1)]
    return np.where(here[place] == keys, place, -1)


def restate(table: ConnectionTable, rows: Indices, keys: Keys, theirs: Theirs) -> int:
    """Corrects the states of connections whose events were lost; how many."""
    place = positions(keys, theirs.keys)
    rows, place = rows[place >= 0], place[place >= 0]
    states = table.store.records["state"]
    wrong = states[rows] != theirs.sockets["state"][place]
    states[rows[wrong]] = theirs.sockets["state"][place[wrong]]
    return int(wrong.sum())


def own(table: ConnectionTable, rows: Indices, keys: Keys, adopted: ConnectionArray, theirs: Theirs) -> int:
    """Gives connections of unknown owner the one that a scan has found; how many."""
    scanned = np.flatnonzero(theirs.sockets["tgid"] != 0)
    if not len(scanned):
        return 0
    owned = Theirs(take(theirs.sockets, scanned), theirs.keys[scanned])
    unknown = table.store.records["pid_source"][rows] == PidSource.NONE
    place = positions(keys[unknown], owned.keys)
    set_owners(table.store.records, rows[unknown][place >= 0], owned.sockets, place[place >= 0])
    orphans = take(adopted, np.flatnonzero(adopted["pid_source"] == PidSource.NONE))
    where = positions(tuple_keys(orphans), owned.keys)
    set_owners(orphans, np.flatnonzero(where >= 0), owned.sockets, where[where >= 0])
    table.adopted.update(orphans)
    return int((place >= 0).sum() + (where >= 0).sum())


def set_owners(records: ConnectionArray, rows: Indices, sockets: SocketArray, place: Indices) -> None:
    """Copies the owners of the sockets at *place* to the records at *rows*."""
    for name in OWNER_NAMES:
        records[name][rows] = sockets[name][place]
    records["pid_source"][rows] = PidSource.FD_SCAN


def retire(table: ConnectionTable, adopted: ConnectionArray, netns: int, theirs: Theirs, keys: Keys) -> tuple[ConnectionArray, int]:
    """Removes adopted connections that the kernel shows no longer or that events show too; what is left, and how many were the first."""
    own_keys = tuple_keys(adopted)
    gone = (adopted["netns"] == netns) & ~np.isin(own_keys, theirs.keys)
    doubled = np.isin(own_keys, keys)
    table.adopted.drop(own_keys[gone | doubled])
    return take(adopted, np.flatnonzero(~gone & ~doubled)), int(gone.sum())
