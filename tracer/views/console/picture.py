# SPDX-License-Identifier: Apache-2.0
"""What a screen is drawn from: one moment of the state, and what the user has chosen."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tracer.state.recent import Failure
from tracer.state.snapshot import Snapshot
from tracer.views.columns import Rows
from tracer.views.connections import ConnectionRows
from tracer.views.console.controls import Controls

MINUTE = 60


@dataclass(frozen=True, slots=True)
class Picture:
    """
    Attributes:
        snapshot: the numbers.
        courses: by state the number of sockets in each of the last seconds, the latest last.
        top: by order (TOP_ORDERS) and list ("processes", "local_ports", "remote_addresses"): names with their counts, largest first.
        failures: connections that failed, the latest first.
        connections: those of the connections page that fit on it; *matching* of *existing* match the filter.
        events: the latest events that match the filter, oldest first.
        now_ns: CLOCK_MONOTONIC of this moment.
        since_s: the counts of this picture begin so long before it.
        status: what stands in the last line instead of the keys, such as where a replay is.
        message: what the user should know, such as an error in the filter.
    """

    snapshot: Snapshot
    courses: Mapping[str, Sequence[int]] = field(default_factory=dict)
    top: Mapping[str, Mapping[str, Sequence[tuple[str, int]]]] = field(default_factory=dict)
    failures: Sequence[Failure] = ()
    connections: ConnectionRows | None = None
    matching: int = 0
    existing: int = 0
    events: Rows | None = None
    now_ns: int = 0
    since_s: float = 0.0
    status: str = ""
    message: str = ""
    controls: Controls = field(default_factory=Controls)


class Courses:
    """The numbers of sockets by state over the last minute, one a second, from the pictures taken."""

    def __init__(self) -> None:
        self._seconds: deque[tuple[int, Mapping[str, int | None]]] = deque(maxlen=MINUTE)

    def add(self, snapshot: Snapshot) -> None:
        """Remembers the snapshot's states, once they are known; the last of a second counts."""
        if not snapshot.states:
            return
        second = int(snapshot.uptime_s)
        if self._seconds and self._seconds[-1][0] == second:
            self._seconds.pop()
        self._seconds.append((second, snapshot.states))

    def by_state(self) -> dict[str, list[int]]:
        """State -> its number in each of the seconds that are known, the latest last."""
        names = self._seconds[-1][1] if self._seconds else {}
        return {name: [states.get(name) or 0 for _, states in self._seconds] for name in names}
