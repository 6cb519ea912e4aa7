# SPDX-License-Identifier: Apache-2.0
"""An immutable picture of the state: what every view is made from."""

from typing import Any

import msgspec


class SelfUse(msgspec.Struct, frozen=True):
    """What tcptrace itself costs: share of one core since the last picture, resident memory, share of the ring in use at worst."""

    cpu_ratio: float
    rss_bytes: int
    ring_fill_ratio: float


class TableDrift(msgspec.Struct, frozen=True):
    """
    The connection table against the kernel's, at the last look.

    Attributes:
        ours, kernel: connections in each; listeners are not among them.
        missing, ghosts: what we lacked, and what we had too many.
        missing_added, ghosts_removed, states_corrected: in all looks but the first, which is the baseline.
    """

    ours: int
    kernel: int
    missing: int
    ghosts: int
    missing_added: int
    ghosts_removed: int
    states_corrected: int


class Drift(msgspec.Struct, frozen=True):
    """
    Our numbers against the kernel's, the known differences taken off.

    Attributes:
        total: all drift of states, counters and sockets at their last looks, without sign; 0 is right.
        time, table_time: of the last look at the counters, and at the socket table.
        source: where the socket table came from.
        period_s, cost_ratio: of looking at it: time between two looks, and the share of one core.
        complete_s: how long after the start of the capture everything that had been open before was known.
        states: by state, full sockets: ours, the kernel's, drift.
        counters: by counter of the kernel, since the start: ours, the kernel's, drift; null where we have no such number.
        sockets: all full sockets against sockstat's inuse.
        table: the connection table.
        healed: drift of states that was taken over from the kernel since the start, without sign.
        problems: what could not be read.
    """

    total: int
    time: str
    table_time: str | None
    source: str | None
    period_s: float
    cost_ratio: float
    complete_s: float | None
    states: dict[str, dict[str, int]]
    counters: dict[str, dict[str, int | None]]
    sockets: dict[str, int] | None
    table: TableDrift | None
    healed: int
    problems: list[str]


class Snapshot(msgspec.Struct, frozen=True):
    """
    Attributes:
        time: wall time, RFC 3339, UTC.
        host, kernel: names.
        hooks: hook -> kind in use.
        uptime_s: since the capture began.
        states: sockets by state now, this network namespace, as `ss` shows them: full sockets by baseline and exact counters,
            mini-sockets by the last look at the kernel (null where it cannot be read). Empty before the first look.
        mini_sockets: the part of *states* that are mini-sockets and half-open requests.
        exact: the full sockets in *states* are known exactly, not only within bounds.
        rates: events per second over the last full second, by rate.
        history: per rate the counts of the last seconds, oldest first, the last full second last.
        totals: since the start: events, and transitions of this and of other network namespaces by the exact counters.
        retransmits, resets: since the start by the exact counters, and per second.
        ports: the ephemeral ports of this network namespace and their use.
        top: processes, local ports, remote addresses with most open connections.
        latency: percentiles over the last minute, in microseconds.
        namespaces: other network namespaces with their connections by state.
        sockstat: the kernel's sockstat and sockstat6 at the last look.
        drift: our numbers against the kernel's; null before the first look.
        lost: events lost since the start, by reason; with any, rates are lower bounds while states stay exact.
        patterns, alerts: none yet.
        use: what tcptrace costs; `self` in JSON.
    """

    time: str
    host: str
    kernel: str
    hooks: dict[str, str]
    uptime_s: float
    states: dict[str, int | None]
    mini_sockets: dict[str, int | None]
    exact: bool
    rates: dict[str, int]
    history: dict[str, list[int]]
    totals: dict[str, int]
    retransmits: dict[str, int]
    resets: dict[str, int]
    ports: dict[str, Any]
    top: dict[str, list[dict[str, Any]]]
    latency: dict[str, dict[str, float | int | None]]
    namespaces: list[dict[str, Any]]
    sockstat: dict[str, dict[str, int]]
    drift: Drift | None
    lost: dict[str, int]
    patterns: list[Any]
    alerts: list[Any]
    use: SelfUse = msgspec.field(name="self")

    @property
    def lost_total(self) -> int:
        return sum(self.lost.values())


def to_json(snapshot: Snapshot) -> str:
    """One line."""
    return msgspec.json.encode(snapshot).decode()
