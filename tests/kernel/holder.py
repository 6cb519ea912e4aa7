# SPDX-License-Identifier: Apache-2.0
"""
Sockets in some arrangement, held until a line comes on stdin: what is held, and later what was done, as JSON on stdout.

Runs inside the test's network namespace.
"""

import json
import os
import socket
import struct
import sys
from collections.abc import Iterator
from typing import Any

from traffic import OPENING, settle


def listener(port: int = 0, backlog: int = 4096) -> socket.socket:
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind(("127.0.0.1", port))
    server.listen(backlog)
    return server


def connected(server: socket.socket) -> tuple[socket.socket, socket.socket]:
    client = socket.create_connection(server.getsockname())
    accepted, _ = server.accept()
    return client, accepted


def pairs(count: str, port: str = "0") -> Iterator[dict[str, Any]]:
    """Connections with both ends; then all closed, the clients first."""
    server = listener(int(port))
    held = [connected(server) for _ in range(int(count))]
    yield {"port": server.getsockname()[1]}
    for client, accepted in held:
        client.close()
        accepted.recv(1)
        accepted.close()
    yield {}


def orphans(count: str) -> Iterator[dict[str, Any]]:
    """Clients that are closed while their servers are not: orphans in FIN_WAIT2, and CLOSE_WAIT."""
    server = listener()
    held = [connected(server) for _ in range(int(count))]
    for client, accepted in held:
        client.close()
        accepted.recv(1)
    yield {"port": server.getsockname()[1]}


def half_closed(count: str) -> Iterator[dict[str, Any]]:
    """Clients that are shut down and kept: full sockets in FIN_WAIT2."""
    server = listener()
    held = [connected(server) for _ in range(int(count))]
    for client, accepted in held:
        client.shutdown(socket.SHUT_WR)
        accepted.recv(1)
    yield {"port": server.getsockname()[1]}


def bound(count: str) -> Iterator[dict[str, Any]]:
    """Sockets that are bound and no more."""
    held = [socket.socket() for _ in range(int(count))]
    for one in held:
        one.bind(("127.0.0.1", 0))
    yield {}


def unaccepted(count: str) -> Iterator[dict[str, Any]]:
    """Connections that wait in the accept queue."""
    server = listener()
    held = [socket.create_connection(server.getsockname()) for _ in range(int(count))]
    settle(OPENING)
    yield {"port": server.getsockname()[1], "held": len(held)}


def mapped(count: str) -> Iterator[dict[str, Any]]:
    """IPv4 clients of a dual-stack IPv6 listener."""
    server = socket.socket(socket.AF_INET6)
    server.bind(("::", 0))
    server.listen(4096)
    port = server.getsockname()[1]
    held = []
    for _ in range(int(count)):
        client = socket.create_connection(("127.0.0.1", port))
        held.append((client, server.accept()[0]))
    yield {"port": port}


def unanswered(count: str) -> Iterator[dict[str, Any]]:
    """Connects to a listener whose accept queue is full: SYN_SENT, sent again and again."""
    server = listener(backlog=0)
    server.listen(0)
    filler = socket.create_connection(server.getsockname())
    settle(OPENING)
    held = []
    for _ in range(int(count)):
        client = socket.socket()
        client.setblocking(False)
        client.connect_ex(server.getsockname())
        held.append(client)
    yield {"port": server.getsockname()[1], "filler": filler.getsockname()[1]}


def multipath(count: str) -> Iterator[dict[str, Any]]:
    """MPTCP connections: each end a socket of its own kind, and a TCP socket below it."""
    protocol = 262
    server = socket.socket(socket.AF_INET, socket.SOCK_STREAM, protocol)
    server.bind(("127.0.0.1", 0))
    server.listen(4096)
    held = []
    for _ in range(int(count)):
        client = socket.socket(socket.AF_INET, socket.SOCK_STREAM, protocol)
        client.connect(server.getsockname())
        held.append((client, server.accept()[0]))
    yield {"port": server.getsockname()[1]}


def reuseport(count: str) -> Iterator[dict[str, Any]]:
    """So many listeners on one port."""
    held: list[socket.socket] = []
    for _ in range(int(count)):
        one = socket.socket()
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        one.bind(("127.0.0.1", held[0].getsockname()[1] if held else 0))
        one.listen()
        held.append(one)
    yield {"port": held[0].getsockname()[1]}


def requests(count: str, address: str, stranger: str) -> Iterator[dict[str, Any]]:
    """SYNs from a host that never answers: requests that stay half-open."""
    server = socket.socket()
    server.bind((address, 0))
    server.listen(4096)
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    for number in range(int(count)):
        raw.sendto(syn(stranger, 20_000 + number, address, server.getsockname()[1]), (address, 0))
    yield {"port": server.getsockname()[1]}


def syn(source: str, sport: int, destination: str, dport: int) -> bytes:
    """A SYN with its IP header, as a packet for a raw socket; the kernel fills the header's checksum in."""
    addresses = socket.inet_aton(source) + socket.inet_aton(destination)
    header = struct.pack("!BBHHHBBH", 0x45, 0, 40, 0, 0, 64, socket.IPPROTO_TCP, 0) + addresses
    segment = struct.pack("!HHIIBBHHH", sport, dport, 1, 0, 5 << 4, 2, 65535, 0, 0)
    words = struct.unpack("!16H", addresses + struct.pack("!BBH", 0, socket.IPPROTO_TCP, len(segment)) + segment)
    total = sum(words)
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~(total + (total >> 16)) & 0xFFFF
    return header + segment[:16] + struct.pack("!H", checksum) + segment[18:]


def main() -> None:
    with open("/proc/self/comm", "w") as file:
        file.write("the-holder")
    arrangement = globals()[sys.argv[1]](*sys.argv[2:])
    for told in arrangement:
        settle()
        print(json.dumps({"pid": os.getpid(), **told}), flush=True)
        if not sys.stdin.readline():
            break
    sys.stdin.read()


if __name__ == "__main__":
    main()
