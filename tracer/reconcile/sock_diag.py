# SPDX-License-Identifier: Apache-2.0
"""
The kernel's sockets through netlink: an order of magnitude cheaper than its text tables, and it leaves out the states not asked for.

Source: include/uapi/linux/inet_diag.h (struct inet_diag_req_v2, struct inet_diag_msg), include/uapi/linux/sock_diag.h,
net/ipv4/inet_diag.c.
"""

import socket
import struct
from collections import Counter

from tracer.events.schema import State

NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
NLM_F_REQUEST_DUMP = 0x1 | 0x300
NLMSG_ERROR = 2
NLMSG_DONE = 3
HEADER = struct.Struct("=IHHII")
#: family, protocol, ext, padding, states, then an empty struct inet_diag_sockid.
REQUEST = struct.Struct("=BBBxI48x")
RECEIVE_BYTES = 1 << 18

#: States of full sockets. Mini-sockets (TIME_WAIT) may be a hundred thousand and are not asked for; half-open requests are no sockets.
FULL_STATES = sum(1 << state for state in State if state not in (State.TIME_WAIT, State.SYN_RECV, State.NEW_SYN_RECV))

#: inet_diag_msg.idiag_timer of a mini-socket, which is reported under the FIN_WAIT2 that it stands in for.
TIMER_MINI_SOCKET = 3


def count_states() -> Counter[int]:
    """
    Full sockets by state in this network namespace, both families.

    Raises:
        OSError: the kernel has no sock_diag, or no module for TCP.
    """
    counts: Counter[int] = Counter()
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as netlink:
        for family in (socket.AF_INET, socket.AF_INET6):
            request = REQUEST.pack(family, socket.IPPROTO_TCP, 0, FULL_STATES)
            netlink.send(HEADER.pack(HEADER.size + len(request), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST_DUMP, family, 0) + request)
            _receive(netlink, counts)
    return counts


def _receive(netlink: socket.socket, counts: Counter[int]) -> None:
    """Adds up one dump, to its end."""
    while True:
        data = netlink.recv(RECEIVE_BYTES)
        offset = 0
        while offset < len(data):
            length, kind, _, _, _ = HEADER.unpack_from(data, offset)
            body = offset + HEADER.size
            if kind == NLMSG_DONE:
                return
            if kind == NLMSG_ERROR:
                raise OSError(-struct.unpack_from("=i", data, body)[0], "the kernel does not answer sock_diag for TCP")
            _, state, timer = struct.unpack_from("=BBB", data, body)
            if timer != TIMER_MINI_SOCKET:
                counts[state] += 1
            offset += (length + 3) & ~3
