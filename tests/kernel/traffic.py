# SPDX-License-Identifier: Apache-2.0
"""
Traffic for the kernel tests: one scenario a call, its arguments as JSON, what it did as JSON on stdout.

Runs inside the test's network namespace. Client and server are processes of their own wherever it matters who owns a socket.
"""

import errno
import json
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

LOOPBACK = {4: "127.0.0.1", 6: "::1"}
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}

#: SYN_RECV; FIN_WAIT1, LAST_ACK and CLOSING (include/net/tcp_states.h), in hexadecimal.
OPENING = {"03"}
ENDING = {"04", "09", "0B"}
SETTLE_S = float(os.environ.get("TCPTRACE_TEST_PATIENCE", "1"))


def set_comm(name: str) -> None:
    with open("/proc/self/comm", "w") as file:
        file.write(name)


def listen(family: int = 4, address: str | None = None, port: int = 0) -> socket.socket:
    server = socket.socket(FAMILY[family])
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((address or LOOPBACK[family], port))
    server.listen(4096)
    return server


def connect(server: socket.socket, family: int = 4) -> socket.socket:
    return connect_to(server.getsockname()[1], family)


def connect_to(port: int, family: int = 4) -> socket.socket:
    client = socket.socket(FAMILY[family])
    client.connect((LOOPBACK[family], port))
    return client


def in_child(work: Callable[[], None]) -> int:
    """Runs *work* in a process of its own; its pid."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return pid


def join(*pids: int) -> None:
    for pid in pids:
        _, status = os.waitpid(pid, 0)
        assert status == 0, f"child {pid} failed with status {status}"


def pairs(count: int = 23, family: int = 4, close: str = "client", port: int = 0) -> dict[str, Any]:
    """Client and server as two named processes; one after the other, each connection closed before the next begins."""
    server = listen(family, port=port)
    port = server.getsockname()[1]

    def serve() -> None:
        set_comm("the-server")
        for _ in range(count):
            accepted, _ = server.accept()
            if close == "client":
                accepted.recv(1)
            accepted.close()

    def request() -> None:
        set_comm("the-client")
        server.close()
        for _ in range(count):
            client = connect_to(port, family)
            if close == "server":
                client.recv(1)
            client.close()

    server_pid, client_pid = in_child(serve), in_child(request)
    server.close()
    join(client_pid, server_pid)
    return {"server_pid": server_pid, "client_pid": client_pid, "port": port}


def alone(count: int, port: int, rate: int) -> dict[str, Any]:
    """Client and server in one thread, on one CPU."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    server = listen(port=port)
    for _ in range(count):
        client = connect(server)
        accepted, _ = server.accept()
        client.close()
        accepted.recv(1)
        accepted.close()
        time.sleep(1 / rate)
    return {"pid": os.getpid(), "port": port}


def refused(count: int = 23, family: int = 4) -> dict[str, Any]:
    """Connects to a port on which nobody listens."""
    closed = listen(family)
    port = closed.getsockname()[1]
    closed.close()
    for _ in range(count):
        client = socket.socket(FAMILY[family])
        assert client.connect_ex((LOOPBACK[family], port)) == errno.ECONNREFUSED
        client.close()
    return {"pid": os.getpid(), "port": port}


def reset(count: int = 23) -> dict[str, Any]:
    """The client ends each connection by a reset."""
    server = listen()
    for _ in range(count):
        client = connect(server)
        accepted, _ = server.accept()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        try:
            accepted.recv(1)
        except ConnectionResetError:
            pass
        accepted.close()
    return {"pid": os.getpid(), "port": server.getsockname()[1]}


def no_ports(ports: int) -> dict[str, Any]:
    """Holds one connection for each ephemeral port, then asks for one more, in a process of its own."""
    server = listen(port=7001)
    held = [connect(server) for _ in range(ports)]

    def ask() -> None:
        set_comm("unlucky")
        extra = socket.socket()
        assert extra.connect_ex(server.getsockname()) == errno.EADDRNOTAVAIL

    pid = in_child(ask)
    join(pid)
    return {"pid": pid, "held": len(held), "port": server.getsockname()[1]}


def accept_variants() -> dict[str, Any]:
    """One connection for each way to accept; the pid that must be seen for each local port of the client."""
    server = listen()
    expected: dict[int, dict[str, Any]] = {}

    def by(name: str, accept: Callable[[], Any]) -> None:
        def work() -> None:
            set_comm(name)
            accept()

        client = connect(server)
        pid = in_child(work)
        join(pid)
        expected[client.getsockname()[1]] = {"pid": pid, "comm": name}
        client.close()

    def in_thread() -> None:
        thread = threading.Thread(target=server.accept)
        thread.start()
        thread.join()

    def from_dup() -> None:
        socket.socket(fileno=os.dup(server.fileno())).accept()

    def by_libc_accept() -> None:
        import ctypes

        assert ctypes.CDLL(None).accept(server.fileno(), None, None) >= 0

    def to_high_descriptor() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_NOFILE, (2048, 4096))
        keep = [os.dup(0) for _ in range(1000)]
        accepted, _ = server.accept()
        assert accepted.fileno() > 1000
        assert keep

    by("inherited", server.accept)
    by("dup", from_dup)
    by("libc-accept", by_libc_accept)
    by("thread", in_thread)
    by("high-fd", to_high_descriptor)
    return {"expected": {str(port): owner for port, owner in expected.items()}, "port": server.getsockname()[1]}


def in_accept(thread: int) -> bool:
    """Whether a thread of this process waits in accept or accept4, by its number on x86-64 or elsewhere."""
    with open(f"/proc/self/task/{thread}/syscall") as file:
        return file.read().split()[0] in ("43", "288", "202", "242")


def crowd(threads: int, count: int) -> dict[str, Any]:
    """A server of so many threads that all wait in accept, and go back to it, when the connections come."""
    server = listen()
    ready, all_ready = os.pipe()

    def accept_for_ever() -> None:
        while True:
            accepted, _ = server.accept()
            accepted.recv(1)
            accepted.close()

    def serve() -> None:
        set_comm("the-server")
        workers = [threading.Thread(target=accept_for_ever, daemon=True) for _ in range(threads)]
        for worker in workers:
            worker.start()
        while not all(worker.native_id and in_accept(worker.native_id) for worker in workers):
            time.sleep(0.01)
        os.write(all_ready, b"x")
        threading.Event().wait()

    pid = in_child(serve)
    os.read(ready, 1)
    clients = []
    for _ in range(count):
        client = connect(server)
        clients.append(client.getsockname()[1])
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""  # the server has accepted it, read its end, and closed
        client.close()
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return {"server_pid": pid, "clients": clients, "port": server.getsockname()[1]}


def queued(count: int, limit: int) -> dict[str, Any]:
    """Connections that wait in a listener's queue before the first of them is accepted."""
    server = socket.socket()
    server.bind((LOOPBACK[4], 0))
    server.listen(limit)
    clients = [connect(server) for _ in range(count)]
    settle(OPENING)
    for _ in clients:
        accepted, _ = server.accept()
        accepted.close()
    return {"port": server.getsockname()[1]}


def failed_accepts(count: int = 23) -> dict[str, Any]:
    """Accepts that find no connection, and one of a Unix socket, which is no TCP."""
    server = listen()
    server.setblocking(False)
    for _ in range(count):
        try:
            server.accept()
        except BlockingIOError:
            pass
    left, right = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    left.bind(b"\0tcptrace-test-%d" % os.getpid())
    left.listen()
    right.connect(left.getsockname())
    left.accept()
    return {"port": server.getsockname()[1]}


def mapped() -> dict[str, Any]:
    """An IPv4 client of a dual-stack IPv6 listener."""
    server = listen(6, "::")
    client = socket.create_connection(("127.0.0.1", server.getsockname()[1]))
    accepted, _ = server.accept()
    client.close()
    accepted.recv(1)
    accepted.close()
    return {"port": server.getsockname()[1]}


def ports(clients: list[int], servers: list[int]) -> dict[str, Any]:
    """One connection from each of these local ports to each of these."""
    for port in servers:
        server = socket.socket()
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", port))
        server.listen()
        for local in clients:
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Chosen by the kernel at connect, as for any client: no bind, the range has room for this port alone.
            with open("/proc/sys/net/ipv4/ip_local_port_range", "w") as file:
                file.write(f"{local} {local}")
            client.connect(("127.0.0.1", port))
            assert client.getsockname()[1] == local
            accepted, _ = server.accept()
            client.close()
            accepted.recv(1)
            accepted.close()
        server.close()
    return {}


def reset_while_talking(by: str) -> dict[str, Any]:
    """One end closes with data unread, which sends a reset; *by* is "client" or "server"."""
    server = listen()
    client = connect(server)
    accepted, _ = server.accept()
    closing, other = (client, accepted) if by == "client" else (accepted, client)
    other.sendall(b"unread")
    closing.recv(1, socket.MSG_PEEK)
    closing.close()
    try:
        other.recv(1)
    except ConnectionResetError:
        pass
    other.close()
    return {"pid": os.getpid(), "port": server.getsockname()[1]}


def full_backlog() -> tuple[socket.socket, list[socket.socket]]:
    """A listener whose accept queue is full: it drops every further SYN."""
    server = listen()
    server.listen(0)
    held = [connect(server)]
    settle(OPENING)
    return server, held


def timeout() -> dict[str, Any]:
    """A connect that nobody answers; one retransmission, so that it takes three seconds and not two minutes."""
    server, held = full_backlog()
    client = socket.socket()
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, 1)
    assert client.connect_ex(server.getsockname()) == errno.ETIMEDOUT
    client.close()
    return {"pid": os.getpid(), "port": server.getsockname()[1], "held": len(held)}


def cancelled() -> dict[str, Any]:
    """A non-blocking connect that its own process gives up."""
    server, held = full_backlog()
    client = socket.socket()
    client.setblocking(False)
    assert client.connect_ex(server.getsockname()) == errno.EINPROGRESS
    client.close()
    return {"pid": os.getpid(), "port": server.getsockname()[1], "held": len(held)}


def unreachable(address: str) -> dict[str, Any]:
    """A connect to a host that a router calls unreachable."""
    client = socket.socket()
    assert client.connect_ex((address, 7001)) == errno.EHOSTUNREACH
    client.close()
    return {"pid": os.getpid(), "port": 7001}


def aborted_in_queue(count: int) -> dict[str, Any]:
    """The listener closes with connections that it never accepted."""
    server = listen()
    port = server.getsockname()[1]
    clients = [connect(server) for _ in range(count)]
    settle(OPENING)
    server.close()
    for client in clients:
        try:
            client.recv(1)
        except ConnectionResetError:
            pass
        client.close()
    return {"pid": os.getpid(), "port": port}


def killed() -> dict[str, Any]:
    """A connection that the administrator destroys."""
    import subprocess

    server = listen(port=7001)
    client = connect(server)
    accepted, _ = server.accept()
    subprocess.run(["ss", "-K", "dport", "=", "7001"], capture_output=True, check=False)
    try:
        client.recv(1)
        raise AssertionError("ss -K did not destroy the connection")
    except ConnectionAbortedError:
        pass
    client.close()
    accepted.close()
    return {"pid": os.getpid(), "port": 7001}


def exchange(sizes: list[list[int]], family: int = 4) -> dict[str, Any]:
    """For each pair of sizes a connection that carries so many bytes there and back; the client's port of each."""
    server = listen(family)
    port = server.getsockname()[1]

    def serve() -> None:
        set_comm("the-server")
        for up, down in sizes:
            accepted, _ = server.accept()
            receive(accepted, up)
            accepted.sendall(b"d" * down)
            assert accepted.recv(1) == b""
            accepted.close()

    pid = in_child(serve)
    set_comm("the-client")
    clients = []
    for up, down in sizes:
        client = connect_to(port, family)
        clients.append(client.getsockname()[1])
        client.sendall(b"u" * up)
        receive(client, down)
        client.close()
    server.close()
    join(pid)
    return {"client_pid": os.getpid(), "server_pid": pid, "port": port, "clients": clients}


def receive(end: socket.socket, count: int) -> None:
    while count > 0:
        count -= len(end.recv(65536))


def late_accept(wait_s: float) -> dict[str, Any]:
    """A server that accepts so late."""
    server = listen()
    client = connect(server)
    time.sleep(wait_s)
    accepted, _ = server.accept()
    client.close()
    accepted.recv(1)
    accepted.close()
    return {"port": server.getsockname()[1]}


def half_close() -> dict[str, Any]:
    """The client shuts its side down, the server goes on sending and closes later."""
    server = listen()
    client = connect(server)
    accepted, _ = server.accept()
    client.shutdown(socket.SHUT_WR)
    assert accepted.recv(1) == b""
    accepted.sendall(b"x" * 1001)
    receive(client, 1001)
    accepted.close()
    assert client.recv(1) == b""
    client.close()
    return {"port": server.getsockname()[1]}


def fork_passing() -> dict[str, Any]:
    """A parent accepts, its child serves and closes: the accepting process owns the connection."""
    server = listen()
    client = connect(server)
    set_comm("the-parent")
    accepted, _ = server.accept()

    def serve() -> None:
        set_comm("the-child")
        client.close()
        accepted.recv(1)
        accepted.close()

    pid = in_child(serve)
    accepted.close()
    client.close()
    join(pid)
    return {"parent": os.getpid(), "child": pid, "port": server.getsockname()[1]}


def reuseport(count: int) -> dict[str, Any]:
    """Two processes with a listener each on one port; which of them accepted how often."""
    first = socket.socket()
    first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    first.bind(("127.0.0.1", 0))
    port = first.getsockname()[1]
    pids = []
    for name in ("server-a", "server-b"):
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()

        def serve(listener: socket.socket = listener, name: str = name) -> None:
            set_comm(name)
            while True:
                accepted, _ = listener.accept()
                accepted.sendall(name.encode())
                accepted.close()

        pids.append(in_child(serve))
        listener.close()
    first.close()
    answers = []
    for _ in range(count):
        client = connect_to(port)
        answers.append([client.getsockname()[1], client.recv(64).decode()])
        assert client.recv(1) == b""
        client.close()
    for pid in pids:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    return {"port": port, "answers": answers, "pids": dict(zip(("server-a", "server-b"), pids, strict=True))}


def fast_open(size: int) -> dict[str, Any]:
    """Two connections with data in their SYN: the first gets the cookie, the second uses it."""
    server = listen()
    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 16)
    for _ in range(2):
        client = socket.socket()
        client.sendto(b"f" * size, 0x20000000, server.getsockname())  # MSG_FASTOPEN
        accepted, _ = server.accept()
        receive(accepted, size)
        client.close()
        assert accepted.recv(1) == b""
        accepted.close()
    return {"port": server.getsockname()[1]}


def self_connect(port: int) -> dict[str, Any]:
    """A socket connected to its own port: the one simultaneous open that needs no luck."""
    alone = socket.socket()
    alone.bind(("127.0.0.1", port))
    alone.connect(("127.0.0.1", port))
    alone.sendall(b"12345")
    receive(alone, 5)
    alone.close()
    return {"pid": os.getpid()}


def states() -> set[str]:
    """The states of this namespace's sockets, as /proc/net/tcp has them."""
    found = set()
    for name in ("tcp", "tcp6"):
        with open(f"/proc/net/{name}") as table:
            found |= {line.split()[3] for line in table if not line.lstrip().startswith("sl")}
    return found


def settle(unsettled: set[str] = ENDING) -> None:
    """
    Waits for acknowledgements that may still be on their way: when both ends have been closed, or when connect has returned.

    Where the other end cannot be reached they never arrive, and nobody waits for long.
    """
    deadline = time.monotonic() + SETTLE_S
    while states() & unsettled and time.monotonic() < deadline:
        time.sleep(0.005)


if __name__ == "__main__":
    result = globals()[sys.argv[1]](**json.loads(sys.argv[2]))
    settle()
    print(json.dumps(result))
