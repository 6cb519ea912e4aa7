# SPDX-License-Identifier: Apache-2.0
"""The connection table, kept right by the kernel's: what was open before the capture, and what a loss has hidden."""

from dataclasses import dataclass

import numpy as np

from tracer.events.batch import EventBatch
from tracer.events.filters import CaptureFilter
from tracer.events.records import take
from tracer.events.schema import EventArray, Kind
from tracer.state.connections import ConnectionArray, ConnectionTable
from tracer.state.healing import Healing, heal
from tracer.state.journal import Journal
from tracer.state.samples import Reconciliation, SocketArray
from tracer.state.tuples import Keys

#: An event's time is read a moment before its record is in the ring, and both before the kernel's table shows it.
SKEW_NS = 1_000_000


@dataclass(slots=True)
class Healed:
    """Sums of Healing over all samples but the first, whose connections are the baseline."""

    missing: int = 0
    ghosts: int = 0
    restated: int = 0


class MergedConnections:
    """
    A ConnectionTable that is compared with the kernel's now and then.

    Args:
        table: the table.
        keep: the capture's filter: only sockets that it keeps belong into the table.
        home_netns: number of the network namespace that samples are of.

    Attributes:
        healed: what the samples after the first have changed.
        last: the last sample's changes in the home namespace, or None.
    """

    def __init__(self, table: ConnectionTable, keep: CaptureFilter, home_netns: int) -> None:
        self.table = table
        self.journal = Journal()
        self._keep = keep
        self._home_netns = home_netns
        self.healed = Healed()
        self.last: Healing | None = None

    @property
    def sees_all(self) -> bool:
        """Whether the filter lets all events of the home namespace through."""
        return self._keep in {CaptureFilter(), CaptureFilter(netns=self._home_netns)}

    def fold(self, batch: EventBatch) -> ConnectionArray:
        """As ConnectionTable.fold."""
        self.journal.fold(batch)
        return self.table.fold(batch)

    def reconcile(self, sample: Reconciliation) -> Keys:
        """
        Makes the table agree with a sample, all events from before whose end have been folded.

        Returns:
            The keys of connections that were added and whose owner is not known.
        """
        for netns, other in sample.namespaces.items():
            if other.sockets is not None:
                self._heal(other.sockets, netns, other.begin_ns)
        if sample.dump is None:
            return np.zeros(0, dtype=np.uint64)
        first = self.last is None
        self.last = self._heal(sample.dump.sockets, self._home_netns, sample.dump.begin_ns)
        if not first:
            self.healed.missing += self.last.missing
            self.healed.ghosts += self.last.ghosts
            self.healed.restated += self.last.restated
        return self.last.unowned

    def _heal(self, sockets: SocketArray, netns: int, begin_ns: int) -> Healing:
        wanted = take(sockets, np.flatnonzero(self._keep.keep(sockets)))
        return heal(self.table, wanted, netns, begin_ns - SKEW_NS, self.journal.since(begin_ns - SKEW_NS))

    def state_events_since(self, since_ns: int) -> EventArray | None:
        """All state events of the home namespace from then on; None where some may be missing."""
        if not self.sees_all or not self.journal.whole_since(since_ns):
            return None
        events = self.journal.since(since_ns)
        return take(events, np.flatnonzero((events["kind"] == Kind.STATE) & (events["netns"] == self._home_netns)))
