# SPDX-License-Identifier: Apache-2.0
"""
A kretprobe with room for many calls at a time.

The kernel keeps a record of each call that has not returned yet, from a stock that is laid in beforehand. perf_event_open lets it be as
small as 10; a call that finds none left is missed, and threads that block in accept() hold one each. Only tracefs lets it be
chosen. What is defined there outlives its maker, so it is handed over with what it takes to remove it, and what a killed tcptrace has
left is removed by the next one.

Source: Documentation/trace/kprobetrace.rst; kernel/kprobes.c, register_kretprobe().
"""

import os
import re

from system import tracefs_file

GROUP = "tcptrace"
#: The most that kernel/trace/trace_kprobe.c, KRETPROBE_MAXACTIVE_MAX allows; 64 bytes each.
MAXACTIVE = 4096
OURS = re.compile(r"^r\d*:(%s/accept_(\d+)_\d+) " % GROUP, re.MULTILINE)


class ReturnProbe:
    """
    A defined return probe of a kernel function, not attached to yet.

    Attributes:
        name: its name in tracefs, "GROUP/NAME".
        events, profile: descriptors of tracefs' lists of definitions and of missed calls.

    Raises:
        OSError: the kernel refuses.
    """

    def __init__(self, function):
        self.name = "%s/accept_%d_%d" % (GROUP, os.getppid(), os.getpid())
        self.events = os.open(tracefs_file("kprobe_events"), os.O_WRONLY | os.O_APPEND)
        self.profile = os.open(tracefs_file("kprobe_profile"), os.O_RDONLY)
        remove_what_was_left(self.events)
        os.write(self.events, ("r%d:%s %s\n" % (MAXACTIVE, self.name, function)).encode())

    def remove(self):
        remove(self.events, self.name)


def remove(events, name):
    os.write(events, ("-:%s\n" % name).encode())


def remove_what_was_left(events):
    """Takes away the definitions of tcptraces that are gone; the kernel itself refuses to take away one that is in use."""
    with open(tracefs_file("kprobe_events")) as file:
        found = OURS.findall(file.read())
    for name, owner in found:
        if os.path.exists("/proc/" + owner):
            continue
        try:
            remove(events, name)
        except OSError:
            continue
