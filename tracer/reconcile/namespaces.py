# SPDX-License-Identifier: Apache-2.0
"""Network namespaces: which there are, what they are called, and a thread's way into one."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tracer.reconcile.cgroups import container_name

NAMED = Path("/run/netns")
PROC = Path("/proc")
CLONE_NEWNET = 0x40000000  # include/uapi/linux/sched.h
OWN = Path("/proc/thread-self/ns/net")

_LIBC = ctypes.CDLL(None, use_errno=True)


def inode_of(path: Path) -> int | None:
    """The number of the namespace that a path stands for; None where it is gone or not ours to look at."""
    try:
        return path.stat().st_ino
    except OSError:
        return None


def enter(path: Path) -> None:
    """
    Moves the calling thread, and no other, into a network namespace.

    Raises:
        OSError: it is gone, or that takes CAP_SYS_ADMIN.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _LIBC.setns(descriptor, CLONE_NEWNET):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(descriptor)


@contextmanager
def inside(path: Path) -> Iterator[None]:
    """
    The calling thread is in another network namespace meanwhile.

    Raises:
        OSError: as enter().
        RuntimeError: the kernel does not let the thread return, and it must not go on.
    """
    back = os.open(OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        enter(path)
        try:
            yield
        finally:
            if _LIBC.setns(back, CLONE_NEWNET):
                # No OSError: whoever goes on would take another namespace for this one.
                raise RuntimeError(f"no way back into the own network namespace: {os.strerror(ctypes.get_errno())}")
    finally:
        os.close(back)


def names_of_ip_netns(folder: Path = NAMED) -> dict[int, tuple[str, Path]]:
    """The namespaces that `ip netns` knows: number -> name and path."""
    found = {}
    with suppress(OSError):
        for path in folder.iterdir():
            inode = inode_of(path)
            if inode is not None:
                found[inode] = (path.name, path)
    return found


def namespaces_of_processes(proc: Path = PROC) -> dict[int, Path]:
    """The namespaces that processes are in, those that we may look at: number -> the folder of one of its processes."""
    found: dict[int, str] = {}
    for name in os.listdir(proc):  # noqa: PTH208  # thousands of Paths take longer than the kernel
        if name.isdecimal():
            with suppress(OSError):
                found.setdefault(os.stat(f"{proc}/{name}/ns/net").st_ino, name)  # noqa: PTH116
    return {inode: proc / name for inode, name in found.items()}


def name_by_process(process: Path) -> str | None:
    """The container or service that a process runs in, by its cgroup (v2, else any v1 hierarchy)."""
    with suppress(OSError):
        for line in (process / "cgroup").read_text().splitlines():
            name = container_name(line.split(":", 2)[-1])
            if name is not None:
                return name
    return None


def find_path(inode: int) -> Path | None:
    """A way into the namespace of this number; None where nobody is in it and nobody named it."""
    named = names_of_ip_netns().get(inode)
    if named is not None:
        return named[1]
    process = namespaces_of_processes().get(inode)
    return process / "ns/net" if process is not None else None
