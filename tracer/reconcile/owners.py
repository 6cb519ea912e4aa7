# SPDX-License-Identifier: Apache-2.0
"""
Whose a socket is, by looking through the descriptors of processes; for sockets that were open before any event told.

Through psutil while there are few sockets; with many that costs up to 40 us for each, and one pass over /proc of our own a few.
"""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil

from tracer.events.addresses import address_text
from tracer.events.records import take
from tracer.state.counting import distinct
from tracer.state.samples import SocketArray
from tracer.state.tuples import tuple_keys

Indices = npt.NDArray[np.intp]

PROC = Path("/proc")
#: psutil reads the whole text table, mini-sockets included.
PSUTIL_SOCKETS = 256
#: The scan lets go of the interpreter so often: the ring's reader waits for it in between.
STEP = 64
PAUSE_S = 0.0002


def find_owners(sockets: SocketArray, chosen: Indices, use_psutil: bool) -> None:
    """
    Sets tgid, comm and uid of the sockets that a process holds; of several processes the oldest descriptor found first counts.

    A process that ends meanwhile, and one that we may not look into, owns nothing for us.

    Args:
        sockets: shape (n,), changed in place.
        chosen: shape (m,), indices of those whose owners are wanted.
        use_psutil: there are few sockets, and they are of the namespace in which psutil looks.
    """
    wanted = chosen[sockets["inode"][chosen] != 0]
    if use_psutil:
        with suppress(psutil.Error, OSError, ValueError, RuntimeError):
            owners_by_psutil(sockets, wanted)
            wanted = wanted[sockets["tgid"][wanted] == 0]
    if len(wanted):
        pids = scan_descriptors(set(sockets["inode"][wanted].tolist()))
        for i in wanted.tolist():
            set_owner(sockets, i, pids.get(int(sockets["inode"][i]), 0))


def copy_owners(sockets: SocketArray, owned: SocketArray) -> None:
    """Sets the owners of sockets from others with the same addresses and ports: shape (n,), changed in place, and (m,)."""
    owned = take(owned, np.flatnonzero(owned["tgid"] != 0))
    if not len(owned):
        return
    keys, where, _ = distinct(tuple_keys(owned))
    wanted = tuple_keys(sockets)
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    same = np.flatnonzero((keys[place] == wanted) & (sockets["tgid"] == 0))
    for name in ("tgid", "comm"):
        sockets[name][same] = owned[name][where[place[same]]]


def owners_by_psutil(sockets: SocketArray, wanted: Indices) -> None:
    """Whatever psutil knows a process of."""
    pids = {}
    for found in psutil.net_connections("tcp"):
        if found.pid and found.laddr:
            pids[key(found.laddr), key(found.raddr or ("", 0))] = found.pid
    for i in wanted.tolist():
        one = sockets[i]
        local, remote = ((plain(one[a].tobytes()), int(one[p])) for a, p in (("saddr", "sport"), ("daddr", "dport")))
        pid = pids.get((local, remote))
        if pid:
            set_owner(sockets, i, pid)


def key(end: tuple[str, int]) -> tuple[str, int]:
    """Address and port; a v4-mapped address as IPv4, none as the unspecified one."""
    address = end[0].removeprefix("::ffff:")
    return "" if address in {"0.0.0.0", "::"} else address, end[1]


def plain(packed: bytes) -> str:
    return key((address_text(packed), 0))[0]


def set_owner(sockets: SocketArray, i: int, pid: int) -> None:
    if pid:
        comm, _ = process_identity(pid)
        if comm:
            sockets["tgid"][i], sockets["comm"][i] = pid, comm


def scan_descriptors(inodes: set[int], proc: Path = PROC, pause: Callable[[float], None] = time.sleep) -> dict[int, int]:
    """
    Process id by inode of a socket: one pass over all descriptors, which ends when all have been found.

    Args:
        inodes: of the sockets that are looked for; emptied as they are found.
        proc: where processes are.
        pause: waits for so many seconds.
    """
    found: dict[int, int] = {}
    for pid in [path.name for path in proc.iterdir() if path.name.isdecimal()]:
        folder = f"{proc}/{pid}/fd"
        with suppress(OSError):  # ended, or not ours to look into
            descriptors = os.listdir(folder)  # noqa: PTH208  # twenty thousand paths cost more than their names
            for start in range(0, len(descriptors), STEP):
                look_at(folder, descriptors[start : start + STEP], int(pid), inodes, found)
                pause(PAUSE_S)
        if not inodes:
            break
    return found


def look_at(folder: str, descriptors: list[str], pid: int, inodes: set[int], found: dict[int, int]) -> None:
    for descriptor in descriptors:
        try:
            target = os.readlink(f"{folder}/{descriptor}")  # noqa: PTH115  # likewise
        except OSError:
            continue  # closed meanwhile
        if target.startswith("socket:["):
            inode = int(target[8:-1])
            if inode in inodes:
                inodes.discard(inode)
                found[inode] = pid


@lru_cache(maxsize=4096)
def _identity(pid: int, _second: int) -> tuple[bytes, int]:
    try:
        process = psutil.Process(pid)
        return process.name().encode()[:15], int(process.uids().real)
    except (psutil.Error, OSError, ValueError):
        return b"", 0


def process_identity(pid: int) -> tuple[bytes, int]:
    """A process's name, cut as the kernel cuts it, and user id; empty and 0 for one that has just ended. Kept for a second."""
    return _identity(pid, int(time.monotonic()))


def in_home_namespace() -> bool:
    """Whether the calling thread is in the network namespace in which psutil looks: the process's."""
    return (PROC / "thread-self/ns/net").stat().st_ino == (PROC / "self/ns/net").stat().st_ino
