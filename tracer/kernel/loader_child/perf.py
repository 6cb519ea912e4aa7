# SPDX-License-Identifier: Apache-2.0
"""
The perf event that runs a BPF program at a classic tracepoint.

Not by BCC: 0.18 looks for tracefs in debugfs only, which a host need not have mounted.

Source: include/uapi/linux/perf_event.h; perf_event_open(2).
"""

import ctypes
import fcntl
import os
import struct

from system import LIBC, tracefs_file

SYS_PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241, "riscv64": 241, "s390x": 331}.get(os.uname().machine)
PERF_TYPE_TRACEPOINT = 2
PERF_FLAG_FD_CLOEXEC = 8
PERF_EVENT_IOC_SET_BPF = 0x40042408
PERF_EVENT_IOC_ENABLE = 0x2400
#: Of struct perf_event_attr: type, size, config, and the rest of its first version, PERF_ATTR_SIZE_VER0.
ATTRIBUTES = struct.Struct("=IIQ48x")

ALL_TASKS, FIRST_CPU, NO_GROUP = -1, 0, -1


def attach_tracepoint(program_fd, category, name):
    """
    Attaches a program to a tracepoint; the descriptor that keeps it attached.

    Raises:
        OSError: there is no such tracepoint, or the kernel refuses.
    """
    with open(tracefs_file("events", category, name, "id")) as file:
        number = int(file.read())
    event_fd = open_event(number)
    try:
        fcntl.ioctl(event_fd, PERF_EVENT_IOC_SET_BPF, program_fd)
        fcntl.ioctl(event_fd, PERF_EVENT_IOC_ENABLE, 0)
    except OSError:
        os.close(event_fd)
        raise
    return event_fd


def open_event(number):
    """
    The descriptor of a tracepoint's event. A program sits on the tracepoint, so it sees all CPUs although an event is for one.

    Raises:
        OSError: the kernel refuses, or this machine's number of the system call is not known.
    """
    if SYS_PERF_EVENT_OPEN is None:
        raise OSError(0, "no perf_event_open system call known for " + os.uname().machine)
    attributes = ATTRIBUTES.pack(PERF_TYPE_TRACEPOINT, ATTRIBUTES.size, number)
    fd = LIBC.syscall(SYS_PERF_EVENT_OPEN, attributes, ALL_TASKS, FIRST_CPU, NO_GROUP, PERF_FLAG_FD_CLOEXEC)
    if fd < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return fd
