# SPDX-License-Identifier: Apache-2.0
"""The connections that are open now, from the kernel's table through psutil; their past is not known."""

import numpy as np

from tracer.events.filters import CaptureFilter
from tracer.events.schema import State
from tracer.kernel.plan import CapturePlan
from tracer.reconcile.polling import PollingCapture
from tracer.state.connections import ENDED_DTYPE, ConnectionArray
from tracer.state.select import OwnerFilter
from tracer.state.sockets import SocketTable

#: States of a socket that is no connection.
NO_CONNECTION = (State.LISTEN, State.CLOSE, State.TIME_WAIT)
SAME_NAMES = ("saddr", "daddr", "sport", "dport", "family", "netns", "sock")


def open_connections(keep: CaptureFilter, owners: OwnerFilter) -> ConnectionArray:
    """Shape (n,), ENDED_DTYPE; closed_ns, like all that was before, is 0."""
    with PollingCapture(CapturePlan(keep), start_empty=True) as capture:
        batch = capture.take()
    context = SocketTable().fold(batch)
    wanted = ~np.isin(batch.events["new_state"], NO_CONNECTION)
    if not owners.keeps_all:
        wanted &= owners.keep(context)
    events, context = batch.events[wanted], context[wanted]
    connections = np.zeros(len(events), dtype=ENDED_DTYPE)
    for name in SAME_NAMES:
        connections[name] = events[name]
    for name in ("tgid", "uid", "comm", "pid_source"):
        connections[name] = context[name]
    connections["state"] = events["new_state"]
    connections["incomplete"] = 1
    return connections
