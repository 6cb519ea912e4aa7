# SPDX-License-Identifier: Apache-2.0
"""The connections that are open now, from the kernel's table; their past is not known."""

from contextlib import nullcontext

import numpy as np

from tracer.errors import HostError
from tracer.events.filters import CaptureFilter
from tracer.events.records import prefix, put, take
from tracer.events.schema import State
from tracer.reconcile import namespaces, proc_net, sock_diag
from tracer.reconcile.owners import PSUTIL_SOCKETS, find_owners, in_home_namespace
from tracer.state.connections import ENDED_DTYPE, OPEN_DTYPE, ConnectionArray
from tracer.state.healing import adopt
from tracer.state.samples import SocketArray
from tracer.state.select import OwnerFilter


def open_connections(keep: CaptureFilter, owners: OwnerFilter) -> ConnectionArray:
    """
    Shape (n,), ENDED_DTYPE; closed_ns, like all that was before, is 0.

    Raises:
        HostError: the network namespace that is asked for cannot be entered, or there is no table.
    """
    path = namespaces.find_path(keep.netns) if keep.netns else None
    try:
        with namespaces.inside(path) if path is not None else nullcontext():
            sockets = read_sockets(namespaces.OWN.stat().st_ino)
    except OSError as error:
        raise HostError(f"the open sockets cannot be read: {error.strerror}", "run it with sudo, or without --netns") from error
    connections = adopt(take(sockets, np.flatnonzero(keep.keep(sockets) & (sockets["state"] != State.LISTEN))), begin_ns=0)
    if not owners.keeps_all:
        connections = take(connections, np.flatnonzero(owners.keep(connections)))
    shown = np.zeros(len(connections), dtype=ENDED_DTYPE)
    put(prefix(shown, OPEN_DTYPE), slice(None), connections)
    return shown


def read_sockets(netns: int) -> SocketArray:
    """
    The full sockets of the calling thread's network namespace with their owners.

    Raises:
        OSError: there is no table.
    """
    try:
        sockets = sock_diag.read_table(netns).sockets
    except OSError:
        sockets = proc_net.read_table(netns).sockets
    find_owners(sockets, np.arange(len(sockets)), len(sockets) <= PSUTIL_SOCKETS and in_home_namespace())
    return sockets
