# SPDX-License-Identifier: Apache-2.0
"""What the loader child asks of the system: a tracefs that only it can see, and to die with its parent."""

import ctypes
import errno
import os
import re
import signal

LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_PDEATHSIG = 1
CLONE_NEWNS = 0x00020000
MS_REC = 0x4000
MS_PRIVATE = 0x40000

TRACEFS = "/sys/kernel/tracing"
#: On old hosts tracefs is only reached through debugfs.
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


def tracefs_file(*path):
    """The first file of this name in a tracefs, as a path; names count from the folder that holds "events"."""
    names = [os.path.join(os.path.dirname(folder), *path) for folder in EVENT_FOLDERS]
    return next((name for name in names if os.path.exists(name)), names[0])


def field_offsets(category, event, fields):
    """
    Where fields stand in a tracepoint's context, by its format file: some kernels put further common fields before them.

    Raises:
        OSError: no such tracepoint, or no such field in it.
    """
    with open(tracefs_file("events", category, event, "format")) as file:
        text = file.read()
    return [offset_in_format(text, field) for field in fields]


def offset_in_format(text, field):
    """
    The offset of a field, from lines such as "field:const void * skaddr;  offset:8;  size:8;  signed:0;".

    Raises:
        OSError: no such field.
    """
    found = re.search(r"field:[^;]*\b%s;\s*offset:(\d+);" % field, text)
    if found is None:
        raise OSError(errno.ENOENT, "no field %s" % field)
    return int(found.group(1))
