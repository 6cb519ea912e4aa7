# SPDX-License-Identifier: Apache-2.0
"""
What the programs of some hooks need to know of this host before they can be compiled.

A hook whose need cannot be met is left out of the compilation, and its reason kept: the others go on without it.
"""

import os

from btf import BtfError
from system import field_offsets, mount_tracefs_privately, tracefs_file

ACCEPT_FUNCTION = "inet_csk_accept"


def need_fexit(btf, defines):
    _, parameters = btf.function(ACCEPT_FUNCTION)
    defines["ACCEPT_PARAMETERS"] = str(parameters)


def need_kprobe(_, __):
    mount_tracefs_privately()
    os.close(os.open(tracefs_file("kprobe_events"), os.O_WRONLY | os.O_APPEND))


def need_syscall(_, defines):
    mount_tracefs_privately()
    (defines["SYS_EXIT_RET"],) = field_offsets("syscalls", "sys_exit_accept4", ["ret"])


def need_tracepoint(_, defines):
    mount_tracefs_privately()
    sock, old_state, new_state = field_offsets("sock", "inet_sock_set_state", ["skaddr", "oldstate", "newstate"])
    defines.update(SET_STATE_SKADDR=sock, SET_STATE_OLDSTATE=old_state, SET_STATE_NEWSTATE=new_state)


#: Kind of hook -> (the macro that compiles its programs, what they need).
NEEDS = {
    "fexit": ("WITH_ACCEPT_FEXIT", need_fexit),
    "kprobe": ("WITH_ACCEPT_KPROBE", need_kprobe),
    "syscall": ("WITH_ACCEPT_SYSCALL", need_syscall),
    "tracepoint": ("WITH_STATE_TRACEPOINT", need_tracepoint),
}


def prepare(btf, defines):
    """
    Completes *defines* for every kind of hook that is asked for in it, or takes the kind out.

    Returns:
        (Reason, errno or None) by kind, for those that were taken out.
    """
    unavailable = {}
    for kind, (macro, need) in NEEDS.items():
        if macro not in defines:
            continue
        try:
            need(btf, defines)
        except (OSError, BtfError) as error:
            del defines[macro]
            unavailable[kind] = explain(error)
    return unavailable


def explain(error):
    """(reason, errno or None)."""
    if isinstance(error, BtfError):
        return str(error), None
    where = ": " + error.filename if error.filename else " in tracefs"
    return (error.strerror or str(error)) + where, error.errno
