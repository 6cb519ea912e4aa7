# SPDX-License-Identifier: Apache-2.0
"""
What reconciliation tells the state: plain data, with its own times, so that a recording can hold it and a replay repeat it.

tracer/reconcile/ takes such samples from the kernel; the state only ever sees them here.
"""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tracer.events.schema import STATES, State
from tracer.state.waiting import TimeWait

#: A full socket of the kernel's table. tgid 0: no owner was looked for or found; inode 0: no process holds it.
SOCKET_DTYPE = np.dtype(
    [
        ("cookie", "<u8"),
        ("cgroup", "<u8"),
        ("saddr", "V16"),
        ("daddr", "V16"),
        ("comm", "S16"),
        ("inode", "<u4"),
        ("netns", "<u4"),
        ("tgid", "<u4"),
        ("uid", "<u4"),
        ("sport", "<u2"),
        ("dport", "<u2"),
        ("state", "u1"),
        ("family", "u1"),
    ]
)

#: Shape (n,), SOCKET_DTYPE.
SocketArray = npt.NDArray[np.void]

#: Shape (STATES,), int64: something for each state.
StateCounts = npt.NDArray[np.int64]


class Totals(Protocol):
    """The exact counters since the programs were attached, each [0: home network namespace, 1: all others]."""

    @property
    def transitions(self) -> npt.NDArray[np.uint64]: ...
    @property
    def accepts(self) -> npt.NDArray[np.uint64]: ...
    @property
    def retransmits(self) -> npt.NDArray[np.uint64]: ...
    @property
    def resets_sent(self) -> npt.NDArray[np.uint64]: ...
    @property
    def resets_received(self) -> npt.NDArray[np.uint64]: ...


@dataclass(frozen=True, slots=True)
class Reading:
    """
    One look at the exact counters of the home network namespace.

    Attributes:
        begin_ns, end_ns: CLOCK_MONOTONIC before and after; each counter is of some moment in between.
        transitions: shape (STATES, STATES), int64, [old][new].
    """

    begin_ns: int
    end_ns: int
    transitions: npt.NDArray[np.int64]
    accepts: int = 0
    retransmits: int = 0
    resets_sent: int = 0
    resets_received: int = 0


def reading_of(totals: Totals, begin_ns: int, end_ns: int) -> Reading:
    """The home namespace's part of the counters, read between the two times."""
    return Reading(
        begin_ns,
        end_ns,
        totals.transitions[0].astype(np.int64),
        int(totals.accepts[0]),
        int(totals.retransmits[0]),
        int(totals.resets_sent[0]),
        int(totals.resets_received[0]),
    )


def entered(transitions: npt.NDArray[np.int64]) -> StateCounts:
    """How often a socket entered each state: shape (STATES,), from shape (STATES, STATES), [old][new]."""
    counts: StateCounts = transitions.sum(axis=0)
    return counts


def left(transitions: npt.NDArray[np.int64]) -> StateCounts:
    """
    How often a socket left each state: shape (STATES,), from shape (STATES, STATES), [old][new].

    LISTEN->SYN_RECV is the birth of a child: the listener has not left LISTEN. Source: inet_csk_clone_lock.
    """
    counts: StateCounts = transitions.sum(axis=1)
    counts[State.LISTEN] -= transitions[State.LISTEN, State.SYN_RECV]
    return counts


def state_changes(transitions: npt.NDArray[np.int64]) -> StateCounts:
    """Sockets that entered a state less those that left it: shape (STATES,)."""
    return entered(transitions) - left(transitions)


@dataclass(frozen=True, slots=True)
class SocketDump:
    """
    The socket table of the home network namespace, read from the first of *readings* to the last.

    Attributes:
        readings: of the counters: one before the table was read, the others after it.
        sockets: the full sockets.
        requests: half-open requests, which are shown as SYN_RECV.
        minis: mini-sockets shown as FIN_WAIT2.
        source: "sock_diag" or "proc_net".
        owners: the owners of all sockets that a table shortly before it had were looked for.
    """

    readings: tuple[Reading, ...]
    sockets: SocketArray
    requests: int
    minis: int
    source: str
    owners: bool = False

    @property
    def begin_ns(self) -> int:
        return self.readings[0].begin_ns

    @property
    def end_ns(self) -> int:
        return self.readings[-1].end_ns

    def counts(self) -> StateCounts:
        """Full sockets by state: shape (STATES,)."""
        return np.bincount(self.sockets["state"], minlength=STATES).astype(np.int64)


@dataclass(frozen=True, slots=True)
class NamespaceSample:
    """
    Another network namespace as the kernel shows it.

    Attributes:
        name: of `ip netns`, a container, or its number.
        sockets: its full sockets, or None where only the name was asked for or the namespace could not be read.
        begin_ns: when its table began to be read.
    """

    name: str
    sockets: SocketArray | None = None
    begin_ns: int = 0


@dataclass(frozen=True, slots=True)
class PortRange:
    """The ephemeral ports: inclusive bounds, and how many of them are reserved (ip_local_reserved_ports)."""

    low: int
    high: int
    reserved: int = 0

    @property
    def available(self) -> int:
        return max(self.high - self.low + 1 - self.reserved, 0)


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """
    What the kernel says of the home network namespace.

    Attributes:
        before, after: the counters around the reading of sockstat and snmp.
        sockstat: protocol -> key -> value of sockstat and sockstat6, keys unknown to us included; what cannot be read is absent.
        snmp: the Tcp line of snmp and the TcpExt line of netstat, by key; likewise.
        dump: the socket table, in some of the samples.
        ports: the ephemeral ports, where they can be read.
        time_wait: what the sockets in TIME_WAIT hold, in those of the samples with which they were looked at.
        namespaces: other network namespaces, by inode number.
        problems: what could not be read, and why, each once.
        cost_s: CPU seconds that taking this sample cost; the search for owners at the start is not among them.
        period_s: time between two samples with a socket table, as it was when this one was due.
        share: of one core that samples have cost since the last one with a socket table.
    """

    before: Reading
    after: Reading
    sockstat: dict[str, dict[str, int]] = field(default_factory=dict)
    snmp: dict[str, int] = field(default_factory=dict)
    dump: SocketDump | None = None
    ports: PortRange | None = None
    time_wait: TimeWait | None = None
    namespaces: dict[int, NamespaceSample] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    cost_s: float = 0.0
    period_s: float = 0.0
    share: float = 0.0

    @property
    def begin_ns(self) -> int:
        return self.before.begin_ns

    @property
    def end_ns(self) -> int:
        return self.dump.end_ns if self.dump is not None else self.after.end_ns

    def inuse(self) -> int | None:
        """Hashed sockets of both families, by sockstat; a host without IPv6 has no second table."""
        inuse = self.sockstat.get("TCP", {}).get("inuse")
        return None if inuse is None else inuse + self.sockstat.get("TCP6", {}).get("inuse", 0)

    def mini_sockets(self) -> int | None:
        """TIME_WAIT and orphaned FIN_WAIT2 of both families, by sockstat."""
        return self.sockstat.get("TCP", {}).get("tw")
