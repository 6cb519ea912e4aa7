# SPDX-License-Identifier: Apache-2.0
"""Recordings folded into events with their owners, or into connections, in groups large enough for a table's row group."""

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from tracer.cli.reconciling import begin_reconciling
from tracer.cli.recorded import KnownCgroups, RecordedCapture
from tracer.cli.run import Run, owner_filter
from tracer.events.batch import EventBatch
from tracer.events.records import join, take
from tracer.events.schema import EventArray
from tracer.state.connections import ConnectionArray, ConnectionTable
from tracer.state.merged import MergedConnections
from tracer.state.sockets import CONTEXT_DTYPE, ContextArray, SocketTable
from tracer.views.arrow import ConnectionGroup, EventGroup, loss_event
from tracer.views.connections import ConnectionRows

#: Rows of a group; with all that is made of them some 200 MB.
GROUP_ROWS = 1 << 19
#: Two CPUs may take their time stamps in the other order than their places in the ring; never by so many places.
OUT_OF_ORDER = 4096


class EventGroups:
    """
    Collects events and gives them in groups sorted by time.

    Args:
        host: name of the recorded host.
    """

    def __init__(self, host: str) -> None:
        self._host = host
        self._events: list[EventArray] = []
        self._context: list[ContextArray] = []
        self._wall: list[npt.NDArray[np.int64]] = []
        self._rows = 0
        self._reasons: list[str] = []

    def add(self, events: EventArray, context: ContextArray, wall_offset_ns: int) -> None:
        """Adds events and what is known of them, both of shape (n,)."""
        if len(events):
            self._events.append(events)
            self._context.append(context)
            self._wall.append(events["ts_ns"].astype(np.int64) + wall_offset_ns)
            self._rows += len(events)

    def add_loss(self, batch: EventBatch) -> None:
        """Adds what was lost before a batch."""
        reason = ",".join(sorted(batch.lost))
        if reason not in self._reasons:
            self._reasons.append(reason)
        event = loss_event(batch.now_ns, batch.lost_total, self._reasons.index(reason))
        context = np.zeros(1, dtype=CONTEXT_DTYPE)
        context["in_state_ns"] = -1
        self.add(event, context, batch.wall_offset_ns)

    @property
    def is_full(self) -> bool:
        return self._rows >= GROUP_ROWS + OUT_OF_ORDER

    def take(self, all_of_it: bool = False) -> EventGroup:
        """The events so far, sorted; but for *all_of_it* without the last ones, which some to come may belong before."""
        events, context, wall = join(self._events), join(self._context), np.concatenate(self._wall)
        order = np.argsort(events["ts_ns"], kind="stable")
        count = len(order) if all_of_it else len(order) - OUT_OF_ORDER
        now, later = order[:count], order[count:]
        group = EventGroup(take(events, now), take(context, now), wall[now], self._reasons, self._host)
        self._events, self._context, self._wall = [take(events, later)], [take(context, later)], [wall[later]]
        self._rows = len(later)
        return group

    @property
    def is_empty(self) -> bool:
        return self._rows == 0


def event_groups(run: Run) -> Iterator[EventGroup]:
    """All events of the run that its options want."""
    owners = owner_filter(run.options)
    groups, table = EventGroups(run.host), SocketTable()
    for batch in run.batches(0.0):
        if batch.lost:
            groups.add_loss(batch)
        context = table.fold(batch)
        events = batch.events
        if not owners.keeps_all:
            keep = owners.keep(context)
            events, context = take(events, keep), take(context, keep)
        allowed = run.room(len(events))
        groups.add(events[:allowed], context[:allowed], batch.wall_offset_ns)
        if groups.is_full:
            yield groups.take()
    if not groups.is_empty:
        yield groups.take(all_of_it=True)


def connection_groups(run: Run) -> Iterator[ConnectionGroup]:
    """All connections of the run that ended, if its options want them, in the order of their ends but for a few microseconds."""
    fold, cgroups = connection_fold(run), recorded_cgroups(run)
    waiting: list[ConnectionArray] = []
    rows, offset_ns = 0, 0
    for batch in run.batches(0.0):
        ended = fold(batch)
        # A group has one offset to wall time: it ends where the clock was set.
        if rows and (rows >= GROUP_ROWS or batch.wall_offset_ns != offset_ns):
            yield ConnectionGroup(ConnectionRows(in_order_of_ends(waiting), offset_ns, cgroups), run.host)
            waiting, rows = [], 0
        waiting.append(ended)
        rows += len(ended)
        offset_ns = batch.wall_offset_ns
    if rows:
        yield ConnectionGroup(ConnectionRows(in_order_of_ends(waiting), offset_ns, cgroups), run.host)


def in_order_of_ends(parts: list[ConnectionArray]) -> ConnectionArray:
    connections = join(parts)
    return take(connections, np.argsort(connections["closed_ns"], kind="stable"))


def connection_fold(run: Run) -> Callable[[EventBatch], ConnectionArray]:
    """Folds batches, and the samples that were recorded after them; gives the connections that ended, if the run's options want them."""
    owners = owner_filter(run.options)
    table = ConnectionTable(sees_accepts=any(h.hook == "accept" and h.kind for h in run.capture.hooks))
    merged = MergedConnections(table, run.keep, run.capture.facts.home_netns)
    reconciler = begin_reconciling(run)

    def fold(batch: EventBatch) -> ConnectionArray:
        ended = merged.fold(batch)
        reconciler.apply_if_ready(batch, merged.reconcile)
        if not owners.keeps_all:
            ended = take(ended, owners.keep(ended))
        return ended[: run.room(len(ended))]

    return fold


def recorded_cgroups(run: Run) -> KnownCgroups:
    """The names of the cgroups of the recorded host, as they become known."""
    assert isinstance(run.capture, RecordedCapture)
    return run.capture.cgroups
