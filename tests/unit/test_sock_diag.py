# SPDX-License-Identifier: Apache-2.0
import errno
import os
import socket
import struct
from functools import partial

import numpy as np
import pytest

from tracer.events.addresses import address_text
from tracer.events.schema import State
from tracer.reconcile import sock_diag
from tracer.reconcile.sock_diag import HEADER, MESSAGE_DTYPE, NLMSG_DONE, NLMSG_ERROR, SOCK_DIAG_BY_FAMILY, DumpInterruptedError
from tracer.state.samples import PortRange

CGROUP = struct.pack("=HHQ", 12, sock_diag.CGROUP_ID, 4711)
MARK = struct.pack("=HHI", 8, 15, 0)
MEMORY = struct.pack("=HH16x", 20, sock_diag.MEMORY_INFO)


def message(state=State.ESTABLISHED, family=socket.AF_INET, source="10.0.0.1", timer=0, attributes=MARK + CGROUP, flags=2):
    destination = "10.0.0.2" if family == socket.AF_INET else "2001:db8::2"
    one = np.zeros(1, dtype=MESSAGE_DTYPE)
    one["length"], one["type"], one["flags"] = MESSAGE_DTYPE.itemsize + len(attributes), SOCK_DIAG_BY_FAMILY, flags
    one["family"], one["state"], one["timer"], one["sport"], one["dport"] = family, state, timer, 40_001, 443
    one["source"] = np.void(socket.inet_pton(family, source).ljust(16, b"\0"))
    one["destination"] = np.void(socket.inet_pton(family, destination).ljust(16, b"\0"))
    one["cookie"], one["uid"], one["inode"] = 7, 8, 9
    return one.tobytes() + attributes


def done(number=0):
    return HEADER.pack(20, NLMSG_DONE, 2, 0, 0) + struct.pack("=i", number)


def refusal(number):
    return HEADER.pack(36, NLMSG_ERROR, 0, 0, 0) + struct.pack("=i", -number) + bytes(16)


class Netlink:
    """Answers each request with the next list of datagrams; an exception is raised where it stands."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.waiting = []
        self.asked = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def send(self, _):
        self.asked += 1
        self.waiting = list(self.answers.pop(0)) if self.answers else [done()]

    def recv(self, _size, flags=0):
        if not self.waiting:
            raise BlockingIOError(errno.EAGAIN, "nothing there")
        item = self.waiting.pop(0)
        if isinstance(item, OSError):
            raise item
        return item


def ask(*answers):
    return sock_diag.dump(Netlink(*answers), socket.AF_INET, sock_diag.FULL_STATES, 0, sock_diag.joined)


def test_a_socket_has_its_addresses_ports_owner_and_cgroup():
    one = ask([message(), done()]).sockets(np.array([True]), netns=99)[0]

    assert (40_001, 443, 7, 8, 9, 4711, 99, 4, State.ESTABLISHED) == tuple(
        one[n] for n in ("sport", "dport", "cookie", "uid", "inode", "cgroup", "netns", "family", "state")
    )
    assert b"\0" * 10 + b"\xff\xff\x0a\0\0\1" == one["saddr"].tobytes()
    assert b"\0" * 10 + b"\xff\xff\x0a\0\0\2" == one["daddr"].tobytes()


def test_messages_of_several_lengths_and_datagrams_keep_their_order():
    states = [State.ESTABLISHED, State.LISTEN, State.LISTEN, State.CLOSE_WAIT, State.FIN_WAIT2]
    first = b"".join(message(s, attributes=MARK if s == State.LISTEN else CGROUP) for s in states)
    dump = ask([first, message(State.CLOSING), done()])

    assert [*states, State.CLOSING] == dump.messages["state"].tolist()
    assert [4711, 0, 0, 4711, 4711, 4711] == dump.cgroups.tolist()
    assert [True, False, False, True, True, False] == dump.lacks(15).tolist()


@pytest.mark.parametrize(("source", "family"), [("2001:db8::1", 6), ("::ffff:10.0.0.1", 4)])
def test_a_mapped_address_counts_as_ipv4(source, family):
    one = ask([message(family=socket.AF_INET6, source=source), done()]).sockets(np.array([True]), 1)[0]

    assert family == one["family"]
    assert socket.inet_pton(socket.AF_INET6, source) == one["saddr"].tobytes()


def table(monkeypatch, *answers):
    monkeypatch.setattr(sock_diag, "open_netlink", lambda: Netlink(*answers))
    return sock_diag.read_table(99)


def test_mini_sockets_and_requests_are_counted_but_no_sockets(monkeypatch):
    full = [message(), message(State.FIN_WAIT2, timer=3, attributes=b""), message(State.FIN_WAIT2)]
    opening = [message(State.SYN_RECV, attributes=MEMORY), message(State.SYN_RECV, timer=1), message(State.SYN_RECV, timer=1)]
    found = table(monkeypatch, [*full, done()], [*opening, done()])

    assert [State.ESTABLISHED, State.FIN_WAIT2, State.SYN_RECV] == found.sockets["state"].tolist()
    assert (2, 1) == (found.requests, found.minis)


def test_sockets_in_time_wait_are_put_together_by_what_they_hold(monkeypatch):
    waiting = [message(State.TIME_WAIT, timer=3, attributes=b"") for _ in range(3)]
    other = message(State.TIME_WAIT, family=socket.AF_INET6, source="2001:db8::1", timer=3, attributes=b"")
    answers = [[*waiting, OSError(errno.ENOBUFS, "no buffer space")], [b"".join(waiting[:2]), waiting[2], done()], [other, done()]]
    monkeypatch.setattr(sock_diag, "open_netlink", lambda: Netlink(*answers))
    found = sock_diag.read_time_wait(PortRange(40_000, 40_001))

    assert 4 == found.total
    assert [40_001] == np.flatnonzero(found.held()).tolist()
    assert [("10.0.0.2", 443, 3), ("2001:db8::2", 443, 1)] == [
        (address_text(address.tobytes()), port, held) for address, port, held in found.destinations
    ]


def test_ports_outside_the_range_are_held_by_nobody_but_counted(monkeypatch):
    for ports in (None, PortRange(40_002, 50_000)):
        answers = [[message(State.TIME_WAIT, timer=3, attributes=b""), done()], [done()]]
        monkeypatch.setattr(sock_diag, "open_netlink", partial(Netlink, *answers))
        found = sock_diag.read_time_wait(ports)

        assert (1, 0, 0) == (found.total, np.count_nonzero(found.held()), len(found.destinations))


def test_an_overflow_of_the_buffer_is_asked_again_and_nothing_is_counted_twice():
    dump = ask([message(), OSError(errno.ENOBUFS, "no buffer space"), message()], [message(), message(), done()])

    assert 2 == len(dump.messages)


def test_a_dump_that_was_interrupted_is_asked_again():
    assert 1 == len(ask([message(flags=2 | sock_diag.NLM_F_DUMP_INTR), done()], [message(), done()]).messages)


@pytest.mark.parametrize("failure", [OSError(errno.ENOBUFS, "no buffer space"), DumpInterruptedError(errno.EAGAIN, "interrupted")])
def test_what_fails_each_time_is_an_error_in_the_end(failure):
    netlink = Netlink(*[[failure]] * 9)
    with pytest.raises(OSError, match=failure.strerror):
        sock_diag.dump(netlink, socket.AF_INET, 0, 0, sock_diag.joined)
    assert sock_diag.ATTEMPTS == netlink.asked


@pytest.mark.parametrize("answer", [refusal(errno.ENOENT), done(-errno.ENOENT)])
def test_a_kernel_without_the_module_says_so(answer):
    with pytest.raises(OSError, match="sock_diag") as error:
        ask([answer])
    assert errno.ENOENT == error.value.errno


def test_this_kernels_own_answer_has_a_listener_of_ours():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        found = sock_diag.read_table(99).sockets
        mine = found[found["sport"] == listener.getsockname()[1]]

        assert [(State.LISTEN, os.fstat(listener.fileno()).st_ino, os.geteuid())] == mine[["state", "inode", "uid"]].tolist()
