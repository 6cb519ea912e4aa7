# SPDX-License-Identifier: Apache-2.0
"""
Which events a capture is about.

The same filter is compiled into the BPF programs (tracer/kernel/plan.py turns it into -D constants for bpf/filter.h) and can be
applied to events that are there already. What only user space can decide is here alone: births of connections that came before the
kernel had chosen the local port, or told the remote end.
"""

import ipaddress
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from tracer.errors import UsageError
from tracer.events.births import unnamed
from tracer.events.schema import EventArray, Kind, State

PortRanges: TypeAlias = tuple[tuple[int, int], ...]
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
Mask: TypeAlias = npt.NDArray[np.bool_]

#: The verifier follows every range of a compiled-in list; far more than anyone types, far less than it can follow.
MAX_ITEMS = 64


@dataclass(frozen=True, slots=True)
class CaptureFilter:
    """
    What the kernel side keeps; an empty field keeps everything.

    Attributes:
        ports: inclusive ranges, either end.
        lports, rports: inclusive ranges of local and remote ports.
        family: 4, 6, or 0 for both; v4-mapped counts as 4.
        networks: either address lies in one of them.
        netns: inode number of a network namespace, or 0.
    """

    ports: PortRanges = ()
    lports: PortRanges = ()
    rports: PortRanges = ()
    family: int = 0
    networks: tuple[Network, ...] = ()
    netns: int = 0

    @property
    def waits_for_local_port(self) -> bool:
        """Whether an event without a local port cannot be decided yet."""
        return bool(self.lports or self.ports)

    @property
    def waits_for_remote_end(self) -> bool:
        """Whether a passive birth without a remote end cannot be decided yet."""
        return bool(self.ports or self.rports or self.family or self.networks)

    def keep(self, events: EventArray) -> Mask:
        """
        Which events the filter keeps: shape (n,), for *events* of shape (n,), EVENT_DTYPE.

        An event without a local port is kept where only that port could rule it out, as in the kernel.
        """
        keep: Mask = np.ones(len(events), dtype=np.bool_)
        unknown = events["sport"] == 0
        if self.family:
            keep &= events["family"] == self.family
        if self.netns:
            keep &= events["netns"] == self.netns
        if self.lports:
            keep &= unknown | in_ranges(events["sport"], self.lports)
        if self.rports:
            keep &= in_ranges(events["dport"], self.rports)
        if self.ports:
            keep &= unknown | in_ranges(events["sport"], self.ports) | in_ranges(events["dport"], self.ports)
        if self.networks:
            keep &= in_networks(events["saddr"], self.networks) | in_networks(events["daddr"], self.networks)
        return keep


def in_ranges(ports: npt.NDArray[np.uint16], ranges: PortRanges) -> Mask:
    """Which ports lie in one of the inclusive ranges; shape of *ports*."""
    inside: Mask = np.logical_or.reduce([(ports >= low) & (ports <= high) for low, high in ranges])
    return inside


def in_networks(addresses: npt.NDArray[np.void], networks: tuple[Network, ...]) -> Mask:
    """Which of the 16-byte addresses, shape (n,), lie in one of the networks; shape (n,)."""
    words = np.ascontiguousarray(addresses).view("<u4").reshape(-1, 4)
    matches = []
    for network in networks:
        address, mask = (np.frombuffer(part, "<u4") for part in network_bytes(network))
        matches.append(((words & mask) == address).all(axis=1))
    inside: Mask = np.logical_or.reduce(matches)
    return inside


def network_bytes(network: Network) -> tuple[bytes, bytes]:
    """A network's address and mask as 16 bytes each, IPv4 mapped into ::ffff:0:0/96."""
    if isinstance(network, ipaddress.IPv4Network):
        return b"\0" * 10 + b"\xff" * 2 + network.network_address.packed, b"\xff" * 12 + network.netmask.packed
    return network.network_address.packed, network.netmask.packed


def is_number(text: str) -> bool:
    """Whether the text is nothing but ASCII digits; int() takes signs, underscores and the digits of every script."""
    return text.isascii() and text.isdigit()


def parse_ports(text: str) -> PortRanges:
    """
    Inclusive ranges, sorted and merged, from "80,443,8000-8099".

    Raises:
        UsageError: not a list of ports from 1 to 65535 and rising ranges of them, or more than MAX_ITEMS.
    """
    merged: list[tuple[int, int]] = []
    for low, high in sorted(_parse_range(item, text) for item in text.split(",")):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    _check_items(merged, "port ranges")
    return tuple(merged)


def _parse_range(item: str, text: str) -> tuple[int, int]:
    low, dash, high = item.strip().partition("-")
    first, last = (low, high) if dash else (low, low)
    if is_number(first) and is_number(last) and 1 <= int(first) <= int(last) <= 65535:
        return int(first), int(last)
    raise UsageError(
        f"bad port {item.strip()!r} in {text!r}",
        "give ports from 1 to 65535 and rising ranges, separated by commas: 80,443,8000-8099",
    )


def parse_networks(items: Iterable[str]) -> tuple[Network, ...]:
    """
    Networks from addresses and CIDR blocks, each item a comma-separated list of them.

    Raises:
        UsageError: not an address or a network, host bits set, or more than MAX_ITEMS.
    """
    networks = tuple(_parse_network(part.strip()) for item in items for part in item.split(","))
    _check_items(networks, "networks")
    return networks


def _parse_network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise UsageError(f"bad address {text!r}: {error}", "give an address or a CIDR block: 10.0.0.0/8, 2001:db8::/32") from error


def _check_items(items: Iterable[object], what: str) -> None:
    count = len(list(items))
    if count > MAX_ITEMS:
        raise UsageError(f"{count} {what} in one filter", f"give at most {MAX_ITEMS}, or fewer and wider ones")


class UndecidedBirths:
    """
    Holds back births that have no local port or no remote end yet, until the socket's next event tells it.

    Bounded: the oldest births are forgotten, and counted, when more than *limit* wait.
    """

    def __init__(self, limit: int = 65536) -> None:
        self._limit = limit
        self._waiting: OrderedDict[int, EventArray] = OrderedDict()
        self.forgotten = 0

    def decide(self, events: EventArray, wanted: CaptureFilter) -> EventArray:
        """
        The events that are now known to match, each socket's in order.

        Args:
            events: shape (n,), EVENT_DTYPE, what the kernel side kept with the same filter.
            wanted: the filter.

        Returns:
            Shape (m,): *events* without those still undecided or ruled out, births of earlier batches put before the event
            that decided them.
        """
        undecided = self._undecided(events, wanted)
        if not undecided.any() and not self._waiting:
            return events
        chosen: list[EventArray] = []
        for i in range(len(events)):
            event = events[i : i + 1]
            sock = int(event["sock"][0])
            birth = self._waiting.pop(sock, None)
            if undecided[i]:
                if event["new_state"][0] in (State.SYN_SENT, State.SYN_RECV):
                    self._hold(sock, event)
                continue
            # Any other event means that the kernel side has dropped the rest of that life, and the address has a new one.
            if birth is not None and event["old_state"][0] == birth["new_state"][0]:
                chosen.append(birth)
            chosen.append(event)
        return np.concatenate(chosen) if chosen else events[:0]

    def _hold(self, sock: int, birth: EventArray) -> None:
        self._waiting[sock] = birth.copy()
        if len(self._waiting) > self._limit:
            self._waiting.popitem(last=False)
            self.forgotten += 1

    def _undecided(self, events: EventArray, wanted: CaptureFilter) -> Mask:
        undecided: Mask = np.zeros(len(events), dtype=np.bool_)
        if wanted.waits_for_local_port:
            undecided |= (events["sport"] == 0) & ~self._matches_by_remote_port(events, wanted) & (events["kind"] == Kind.STATE)
        if wanted.waits_for_remote_end:
            undecided |= unnamed(events)
        return undecided

    @staticmethod
    def _matches_by_remote_port(events: EventArray, wanted: CaptureFilter) -> Mask:
        if wanted.lports:
            return np.zeros(len(events), dtype=np.bool_)
        return in_ranges(events["dport"], wanted.ports)
