# SPDX-License-Identifier: Apache-2.0
"""An immutable picture of the state: what every view is made from."""

import msgspec


class SelfUse(msgspec.Struct, frozen=True):
    """What tcptrace itself costs: share of one core since the last picture, resident memory, share of the ring in use at worst."""

    cpu_ratio: float
    rss_bytes: int
    ring_fill_ratio: float


class Snapshot(msgspec.Struct, frozen=True):
    """
    Attributes:
        time: wall time, RFC 3339, UTC.
        host, kernel: names.
        hooks: hook -> kind in use.
        uptime_s: since the capture began.
        states: sockets by state now, this network namespace, TIME_WAIT included (null where it cannot be read).
        exact: the states began from a baseline taken at rest.
        rates: events per second over the last full second, by rate.
        history: per rate the counts of the last seconds, oldest first, the last full second last.
        totals: since the start: events, and transitions of this and of other network namespaces by the exact counters.
        lost: events lost since the start, by reason; with any, rates are lower bounds while states stay exact.
        use: what tcptrace costs; `self` in JSON.
    """

    time: str
    host: str
    kernel: str
    hooks: dict[str, str]
    uptime_s: float
    states: dict[str, int | None]
    exact: bool
    rates: dict[str, int]
    history: dict[str, list[int]]
    totals: dict[str, int]
    lost: dict[str, int]
    use: SelfUse = msgspec.field(name="self")

    @property
    def lost_total(self) -> int:
        return sum(self.lost.values())


def to_json(snapshot: Snapshot) -> str:
    """One line."""
    return msgspec.json.encode(snapshot).decode()
