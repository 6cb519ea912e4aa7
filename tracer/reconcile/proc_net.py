# SPDX-License-Identifier: Apache-2.0
"""
The kernel's own tables and counters as text: /proc/net/tcp and tcp6, sockstat, snmp, netstat, and the ephemeral ports.

Whatever cannot be read is absent, and what is not understood is left out: a table may be cut short, a line be of another kernel.

Source: net/ipv4/tcp_ipv4.c, get_tcp4_sock, get_openreq4 and get_timewait4_sock; net/ipv4/proc.c, sockstat_seq_show, snmp_seq_show_tcp_udp
and netstat_seq_show.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from tracer.events.addresses import V4_PREFIX
from tracer.events.schema import State
from tracer.reconcile.sock_diag import Table
from tracer.state.samples import SOCKET_DTYPE, PortRange, SocketArray

#: Of the calling thread, whose network namespace need not be the process's.
PROC_NET = Path("/proc/thread-self/net")
PORT_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
RESERVED_PORTS = Path("/proc/sys/net/ipv4/ip_local_reserved_ports")

#: Timer of a mini-socket (TIME_WAIT, or the FIN_WAIT2 of an orphan): the full socket behind it has closed already.
MINI_SOCKET_TIMER = "03"
#: The table shows no inode and no user for a half-open request, and a full socket's line is longer.
REQUEST_FIELDS = 13


def read_table(netns: int, folder: Path = PROC_NET) -> Table:
    """
    The sockets of the text tables, both families; a host without IPv6 has no second table.

    Raises:
        OSError: there is no first one.
    """
    lines = (folder / "tcp").read_text().splitlines()
    with suppress(OSError):
        lines += (folder / "tcp6").read_text().splitlines()
    return parse_table(lines, netns)


def parse_table(lines: Iterable[str], netns: int) -> Table:
    """Sockets from the lines of tcp tables, headings included."""
    sockets: list[tuple[int | bytes, ...]] = []
    requests = minis = 0
    for fields in rows(lines):
        state = int(fields[3], 16)
        if fields[5].startswith(MINI_SOCKET_TIMER):
            minis += state == State.FIN_WAIT2
        elif state == State.SYN_RECV and len(fields) <= REQUEST_FIELDS:
            requests += 1
        elif state != State.CLOSE:
            sockets.append(parse_row(fields, state))
    return Table(as_sockets(sockets, netns), requests, minis)


def rows(lines: Iterable[str]) -> Iterator[list[str]]:
    """The fields of each line that is a socket."""
    for line in lines:
        fields = line.split()
        if len(fields) >= 10 and fields[0] != "sl" and ":" in fields[1] and ":" in fields[2]:
            yield fields


def parse_row(fields: list[str], state: int) -> tuple[int | bytes, ...]:
    """Addresses, ports, state, user, inode."""
    (saddr, sport), (daddr, dport) = (field.split(":") for field in fields[1:3])
    return parse_address(saddr), parse_address(daddr), int(sport, 16), int(dport, 16), state, int(fields[7]), int(fields[9])


def parse_address(text: str) -> bytes:
    """16 bytes, from words of 32 bits in this host's order, as hexadecimal digits; IPv4 has one word."""
    words = b"".join(int(text[i : i + 8], 16).to_bytes(4, "little") for i in range(0, len(text), 8))
    return V4_PREFIX + words if len(words) == 4 else words


def as_sockets(found: list[tuple[int | bytes, ...]], netns: int) -> SocketArray:
    sockets = np.zeros(len(found), dtype=SOCKET_DTYPE)
    for i, (saddr, daddr, sport, dport, state, uid, inode) in enumerate(found):
        assert isinstance(saddr, bytes)
        assert isinstance(daddr, bytes)
        socket = sockets[i]
        socket["saddr"], socket["daddr"] = np.void(saddr), np.void(daddr)
        socket["sport"], socket["dport"], socket["state"], socket["uid"], socket["inode"] = sport, dport, state, uid, inode
        socket["family"] = 4 if saddr.startswith(V4_PREFIX) or daddr.startswith(V4_PREFIX) else 6
    sockets["netns"] = netns
    return sockets


def parse_sockstat(text: str) -> dict[str, dict[str, int]]:
    """Protocol -> key -> value, from lines such as "TCP: inuse 5 orphan 0 tw 2 alloc 7 mem 1"."""
    table = {}
    for line in text.splitlines():
        protocol, _, rest = line.partition(":")
        words = rest.split()
        table[protocol] = {key: int(value) for key, value in zip(words[::2], words[1::2], strict=False) if value.isdecimal()}
    return table


def read_sockstat(folder: Path = PROC_NET) -> dict[str, dict[str, int]]:
    """Sockstat and sockstat6 together; a file that cannot be read adds nothing."""
    return parse_sockstat(read(folder / "sockstat")) | parse_sockstat(read(folder / "sockstat6"))


def parse_counters(text: str, wanted: str) -> dict[str, int]:
    """
    The counters of one protocol, from its two lines of snmp or netstat: names, and values.

    What is no number is left out; so are all of them where the two lines are not of the same length.
    """
    lines = [line.split()[1:] for line in text.splitlines() if line.startswith(f"{wanted}:")]
    if len(lines) != 2 or len(lines[0]) != len(lines[1]):
        return {}
    return {name: int(value) for name, value in zip(*lines, strict=True) if value.removeprefix("-").isdecimal()}


def read_counters(folder: Path = PROC_NET) -> dict[str, int]:
    """Tcp of snmp and TcpExt of netstat."""
    return parse_counters(read(folder / "snmp"), "Tcp") | parse_counters(read(folder / "netstat"), "TcpExt")


def read_ports() -> PortRange | None:
    """The ephemeral ports of the calling thread's network namespace; None where they cannot be read."""
    bounds = read(PORT_RANGE).split()
    if len(bounds) != 2 or not all(bound.isdecimal() for bound in bounds):
        return None
    low, high = int(bounds[0]), int(bounds[1])
    return PortRange(low, high, reserved_within(read(RESERVED_PORTS), low, high))


def reserved_within(text: str, low: int, high: int) -> int:
    """How many ports of a list such as "8080,40000-40010" lie between the two, inclusively."""
    count = 0
    for item in text.strip().split(","):
        first, _, last = item.partition("-")
        if first.isdecimal() and (last.isdecimal() or not last):
            count += max(min(int(last or first), high) - max(int(first), low) + 1, 0)
    return count


def read(path: Path) -> str:
    """A file's text; nothing where it cannot be read."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
