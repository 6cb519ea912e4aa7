# SPDX-License-Identifier: Apache-2.0
"""What the loader child asks of the system: a tracefs that only it can see, and to die with its parent."""

import ctypes
import os
import re
import signal

LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_PDEATHSIG = 1
CLONE_NEWNS = 0x00020000
MS_REC = 0x4000
MS_PRIVATE = 0x40000

TRACEFS = "/sys/kernel/tracing"
#: Where bcc 0.26 looks, in its order; on old hosts tracefs is only reached through debugfs.
EVENT_FOLDERS = (TRACEFS + "/events", "/sys/kernel/debug/tracing/events")


def die_with_parent():
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def mount_tracefs_privately():
    """
    Makes tracefs readable for this process alone: in a mount namespace of its own, so the host's mounts do not change.

    Raises:
        OSError: it is not mounted, and this process may not mount it.
    """
    if any(os.path.isdir(folder) for folder in EVENT_FOLDERS):
        return
    steps = (
        lambda: LIBC.unshare(CLONE_NEWNS),
        # A new mount spreads as the mount below it says. Not "/", which in a chroot is no mount.
        lambda: LIBC.mount(b"none", b"/sys", None, MS_REC | MS_PRIVATE, None),
        lambda: LIBC.mount(b"tracefs", TRACEFS.encode(), b"tracefs", 0, None),
    )
    for step in steps:
        if step() != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def syscall_return_offset(event):
    """Where the return value stands in a syscall tracepoint's context, by its format file: some kernels add common fields."""
    for folder in EVENT_FOLDERS:
        try:
            with open(folder + "/syscalls/" + event + "/format") as file:
                text = file.read()
        except OSError:
            continue
        return int(re.search(r"field:\s*long ret;\s*offset:(\d+);", text).group(1))
    raise OSError("no format file for the tracepoint syscalls:" + event)
