# SPDX-License-Identifier: Apache-2.0
"""
The kernel's sockets through netlink, decoded with NumPy: an order of magnitude cheaper than its text tables, and it leaves out the
states not asked for.

Source: include/uapi/linux/inet_diag.h (struct inet_diag_req_v2, struct inet_diag_msg), include/uapi/linux/sock_diag.h,
net/ipv4/inet_diag.c.
"""

import errno
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from tracer.events.addresses import V4_PREFIX
from tracer.events.schema import State
from tracer.state.samples import SOCKET_DTYPE, PortRange, SocketArray
from tracer.state.waiting import Holders, TimeWait

T = TypeVar("T")

NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
NLM_F_REQUEST_DUMP = 0x1 | 0x300
NLM_F_DUMP_INTR = 0x10
NLMSG_ERROR = 2
NLMSG_DONE = 3
HEADER = struct.Struct("=IHHII")
#: family, protocol, ext, padding, states, then an empty struct inet_diag_sockid.
REQUEST = struct.Struct("=BBBxI48x")
RECEIVE_BYTES = 1 << 18
ATTEMPTS = 3

#: A message: its header, then struct inet_diag_msg; attributes follow.
MESSAGE_DTYPE = np.dtype(
    [
        ("length", "<u4"),
        ("type", "<u2"),
        ("flags", "<u2"),
        ("sequence", "<u4"),
        ("port", "<u4"),
        ("family", "u1"),
        ("state", "u1"),
        ("timer", "u1"),
        ("retrans", "u1"),
        ("sport", ">u2"),
        ("dport", ">u2"),
        ("source", "V16"),
        ("destination", "V16"),
        ("interface", "<u4"),
        ("cookie", "<u8"),
        ("expires", "<u4"),
        ("rqueue", "<u4"),
        ("wqueue", "<u4"),
        ("uid", "<u4"),
        ("inode", "<u4"),
    ]
)
ATTRIBUTE = struct.Struct("=HH")
#: INET_DIAG_CGROUP_ID, always there since 6e3a401fc8af ("inet_diag: Add cgroup id attribute", v5.8).
CGROUP_ID = 21

#: Mini-sockets (TIME_WAIT) may be a hundred thousand and are not asked for; half-open requests are asked for apart.
FULL_STATES = sum(1 << state for state in State if state not in (State.TIME_WAIT, State.CLOSE, State.SYN_RECV, State.NEW_SYN_RECV)) & 0xFFF
#: The kernel adds its requests (TCP_NEW_SYN_RECV) to these, under this state (net/ipv4/inet_diag.c, inet_diag_dump_icsk).
SYN_RECV_STATES = 1 << State.SYN_RECV
#: Asks for INET_DIAG_MEMINFO, which the kernel has for full sockets only.
WITH_MEMORY = 1
MEMORY_INFO = 1

#: inet_diag_msg.idiag_timer of a mini-socket, which is reported under the FIN_WAIT2 that it stands in for.
TIMER_MINI_SOCKET = 3


class DumpInterruptedError(OSError):
    """The kernel says that its table changed in a way that makes the dump incomplete."""


@dataclass(frozen=True, slots=True)
class Table:
    """
    Attributes:
        sockets: the full sockets.
        requests: half-open requests, which the kernel shows as SYN_RECV.
        minis: mini-sockets that it shows as FIN_WAIT2.
    """

    sockets: SocketArray
    requests: int
    minis: int


def read_table(netns: int) -> Table:
    """
    The TCP sockets of the calling thread's network namespace, both families.

    Args:
        netns: the namespace's number, for the records.

    Raises:
        OSError: the kernel has no sock_diag, or no module for TCP.
    """
    with open_netlink() as netlink:
        parts, requests, minis = [], 0, 0
        for family in (socket.AF_INET, socket.AF_INET6):
            full = dump(netlink, family, FULL_STATES, 0, joined)
            opening = dump(netlink, family, SYN_RECV_STATES, WITH_MEMORY, joined)
            is_mini = full.messages["timer"] == TIMER_MINI_SOCKET
            is_request = opening.lacks(MEMORY_INFO)
            parts += [full.sockets(~is_mini, netns), opening.sockets(~is_request, netns)]
            requests += int(is_request.sum())
            minis += int(is_mini.sum())
    return Table(np.concatenate(parts), requests, minis)


def read_time_wait(ports: PortRange | None) -> TimeWait:
    """
    What the sockets in TIME_WAIT hold of these ports, both families; it is for the caller to know that there are not too many.

    Raises:
        OSError: as read_table().
    """
    holders = Holders()
    with open_netlink() as netlink:
        for family in (socket.AF_INET, socket.AF_INET6):
            holders.join(dump(netlink, family, 1 << State.TIME_WAIT, 0, lambda runs: hold(runs, ports)))
    return holders.time_wait()


def hold(runs: Iterable["Dump"], ports: PortRange | None) -> Holders:
    """Takes the sockets as they arrive."""
    holders = Holders()
    for run in runs:
        sport = run.messages["sport"]
        inside = run.messages[(sport >= ports.low) & (sport <= ports.high)] if ports is not None else run.messages[:0]
        addresses = mapped(inside["destination"], inside["family"] == socket.AF_INET)
        holders.add(len(run.messages), inside["sport"], inside["dport"], addresses)
    return holders


def open_netlink() -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG)


@dataclass(frozen=True, slots=True)
class Dump:
    """
    Attributes:
        messages: shape (n,), MESSAGE_DTYPE.
        cgroups: shape (n,), cgroup v2 id of each; 0 where the kernel does not tell.
        attributes: shape (n,), bit 1 << TYPE for each attribute that a message has.
    """

    messages: npt.NDArray[np.void]
    cgroups: npt.NDArray[np.uint64]
    attributes: npt.NDArray[np.uint64]

    def lacks(self, attribute: int) -> npt.NDArray[np.bool_]:
        """Which messages do not have it: shape (n,)."""
        missing: npt.NDArray[np.bool_] = (self.attributes & np.uint64(1 << attribute)) == 0
        return missing

    def sockets(self, chosen: npt.NDArray[np.bool_], netns: int) -> SocketArray:
        """The chosen ones: *chosen* of shape (n,)."""
        messages = self.messages[chosen]
        sockets = np.zeros(len(messages), dtype=SOCKET_DTYPE)
        for name in ("cookie", "uid", "inode", "state", "sport", "dport"):
            sockets[name] = messages[name]
        sockets["cgroup"] = self.cgroups[chosen]
        sockets["netns"] = netns
        is_ipv4 = messages["family"] == socket.AF_INET
        sockets["saddr"] = mapped(messages["source"], is_ipv4)
        sockets["daddr"] = mapped(messages["destination"], is_ipv4)
        ipv4_inside = is_mapped(sockets["saddr"]) | is_mapped(sockets["daddr"])
        sockets["family"] = np.where(is_ipv4 | ipv4_inside, 4, 6)
        return sockets


def mapped(addresses: npt.NDArray[np.void], is_ipv4: npt.NDArray[np.bool_]) -> npt.NDArray[np.void]:
    """Addresses of shape (n,), IPv4 ones moved from their first four bytes into ::ffff:0:0/96."""
    octets = np.ascontiguousarray(addresses).view(np.uint8).reshape(-1, 16).copy()
    octets[is_ipv4, 12:] = octets[is_ipv4, :4]
    octets[is_ipv4, :12] = np.frombuffer(V4_PREFIX, dtype=np.uint8)
    return octets.view("V16").reshape(-1)


def is_mapped(addresses: npt.NDArray[np.void]) -> npt.NDArray[np.bool_]:
    """Which 16-byte addresses, shape (n,), lie in ::ffff:0:0/96."""
    octets = np.ascontiguousarray(addresses).view(np.uint8).reshape(-1, 16)
    inside: npt.NDArray[np.bool_] = (octets[:, :12] == np.frombuffer(V4_PREFIX, dtype=np.uint8)).all(axis=1)
    return inside


def dump(netlink: socket.socket, family: int, states: int, extensions: int, gather: Callable[[Iterable[Dump]], T]) -> T:
    """
    One dump, asked for again where the kernel could not give it whole.

    Args:
        netlink: from open_netlink().
        family: of the sockets.
        states: a bit 1 << STATE for each state that is asked for.
        extensions: a bit 1 << (TYPE - 1) for each attribute that is asked for.
        gather: makes something of the runs of messages of equal length, as they arrive.

    Raises:
        OSError: the kernel does not answer, or not in ATTEMPTS attempts.
    """
    for attempt in range(ATTEMPTS):
        try:
            return gather(answers(netlink, family, states, extensions, attempt))
        except OSError as error:
            if attempt == ATTEMPTS - 1 or not (error.errno == errno.ENOBUFS or isinstance(error, DumpInterruptedError)):
                raise
            drain(netlink)
    raise AssertionError


def drain(netlink: socket.socket) -> None:
    """Throws away what is left of a dump that failed."""
    try:
        while netlink.recv(RECEIVE_BYTES, socket.MSG_DONTWAIT):
            pass
    except OSError:
        return


def answers(netlink: socket.socket, family: int, states: int, extensions: int, sequence: int) -> Iterator[Dump]:
    """
    Asks, and gives what arrives.

    Raises:
        OSError: as dump(), where it could not be given whole.
    """
    request = REQUEST.pack(family, socket.IPPROTO_TCP, extensions, states)
    netlink.send(HEADER.pack(HEADER.size + len(request), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST_DUMP, sequence, 0) + request)
    while True:
        data = netlink.recv(RECEIVE_BYTES)
        offset = 0
        while offset < len(data):
            length, kind, flags, _, _ = HEADER.unpack_from(data, offset)
            if flags & NLM_F_DUMP_INTR:
                raise DumpInterruptedError(errno.EAGAIN, "the dump was interrupted")
            if kind in {NLMSG_ERROR, NLMSG_DONE}:
                check(data, offset + HEADER.size, kind)
                return
            count = same_length(data, offset, length)
            yield decode(data, offset, length, count)
            offset += count * aligned(length)


def check(data: bytes, offset: int, kind: int) -> None:
    """
    Both the end of a dump and a refusal carry an error number.

    Raises:
        OSError: the dump failed.
    """
    number = struct.unpack_from("=i", data, offset)[0] if len(data) >= offset + 4 else 0
    if number < 0 or kind == NLMSG_ERROR:
        raise OSError(-number, "the kernel does not answer sock_diag for TCP")


def aligned(length: int) -> int:
    return (length + 3) & ~3


def same_length(data: bytes, offset: int, length: int) -> int:
    """How many messages of this length follow one another from *offset* on."""
    stride = aligned(length)
    most = (len(data) - offset) // stride
    lengths = np.ndarray((most,), dtype="<u4", buffer=data, offset=offset, strides=(stride,))
    types = np.ndarray((most,), dtype="<u2", buffer=data, offset=offset + 4, strides=(stride,))
    other = np.flatnonzero((lengths != length) | (types != SOCK_DIAG_BY_FAMILY))
    return int(other[0]) if len(other) else most


def decode(data: bytes, offset: int, length: int, count: int) -> Dump:
    """Messages of one length, whose attributes therefore stand at the same places: those of the first one are looked for."""
    stride = aligned(length)
    messages = np.ndarray((count,), dtype=MESSAGE_DTYPE, buffer=data, offset=offset, strides=(stride,))
    cgroups, present = np.zeros(count, dtype=np.uint64), 0
    place = MESSAGE_DTYPE.itemsize
    while place + ATTRIBUTE.size <= length:
        size, kind = ATTRIBUTE.unpack_from(data, offset + place)
        if size < ATTRIBUTE.size:
            break
        present |= 1 << kind
        if kind == CGROUP_ID:
            kinds = np.ndarray((count,), dtype="<u2", buffer=data, offset=offset + place + 2, strides=(stride,))
            values = np.ndarray((count,), dtype="<u8", buffer=data, offset=offset + place + ATTRIBUTE.size, strides=(stride,))
            cgroups = np.where(kinds == CGROUP_ID, values, 0).astype(np.uint64)
        place += aligned(size)
    return Dump(messages.copy(), cgroups, np.full(count, present, dtype=np.uint64))


def joined(parts: Iterable[Dump]) -> Dump:
    runs = list(parts)
    if not runs:
        return Dump(np.zeros(0, dtype=MESSAGE_DTYPE), np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.uint64))
    return Dump(
        np.concatenate([run.messages for run in runs]),
        np.concatenate([run.cgroups for run in runs]),
        np.concatenate([run.attributes for run in runs]),
    )
