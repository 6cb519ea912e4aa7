# SPDX-License-Identifier: Apache-2.0
"""What is read of the kernel besides sock_diag, what may go wrong with it, and how often it is read."""

import itertools
import os
import socket
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from tracer.events.batch import EventBatch
from tracer.events.schema import EVENT_DTYPE, no_events
from tracer.reconcile import namespaces, owners, proc_net, sampling, sock_diag
from tracer.reconcile.namespaces import names_of_ip_netns, namespaces_of_processes
from tracer.reconcile.reconciler import MARGIN, MAX_PERIOD_S, MAX_SHARE, TABLE_PERIOD_S, Pace, Reconciler
from tracer.reconcile.sampling import Sampler
from tracer.state.samples import PortRange, Reading, Reconciliation
from tracer.state.waiting import Holders

SNMP = """\
Ip: Forwarding DefaultTTL
Ip: 1 64
Tcp: RtoAlgorithm MaxConn ActiveOpens Novel
Tcp: 1 -1 17 x
"""


def test_counters_are_read_by_name_and_what_is_no_number_is_left_out():
    assert {"RtoAlgorithm": 1, "MaxConn": -1, "ActiveOpens": 17} == proc_net.parse_counters(SNMP, "Tcp")


@pytest.mark.parametrize("text", ["", "Tcp: a b\n", "Tcp: a b\nTcp: 1\n", "Tcp: a\nTcp: 1\nTcp: 2\n"])
def test_counters_that_make_no_sense_are_absent(text):
    assert {} == proc_net.parse_counters(text, "Tcp")


def test_files_that_cannot_be_read_are_absent(tmp_path):
    assert {} == proc_net.read_sockstat(tmp_path)
    assert {} == proc_net.read_counters(tmp_path)
    with pytest.raises(OSError, match="tcp"):
        proc_net.read_table(99, tmp_path)


def test_a_host_without_ipv6_has_one_table(tmp_path):
    line = "0: 0100007F:1F90 0200007F:9C40 01 00000000:00000000 02:000A7D8C 00000000 5 0 123 2 x 20 4 30 10 -1"
    (tmp_path / "tcp").write_text(f"sl heading\n{line}\n")
    one = proc_net.read_table(99, tmp_path).sockets[0]

    assert (8080, 40_000, 1, 5, 123, 99, 4) == tuple(one[n] for n in ("sport", "dport", "state", "uid", "inode", "netns", "family"))
    assert b"\0" * 10 + b"\xff\xff\x7f\0\0\2" == one["daddr"].tobytes()


def test_an_ipv6_address_is_read_word_by_word():
    assert socket.inet_pton(socket.AF_INET6, "2001:db8::1") == proc_net.parse_address("B80D0120000000000000000001000000")


@pytest.mark.parametrize(
    ("text", "count"), [("", 0), ("8080,40000-40009,40100", 11), ("30000-40004", 5), ("60990-65000", 10), ("x,-,1-y", 0)]
)
def test_reserved_ports_count_where_they_are_ephemeral(text, count):
    assert count == proc_net.reserved_within(text + "\n", 40_000, 60_999)


def test_a_range_without_a_free_port_has_none_available():
    assert 0 == PortRange(1, 2, 5).available


@pytest.fixture
def process_tree(tmp_path):
    """Two processes: the first holds the sockets 11 and 12, the second 13 and a file."""
    for pid, targets in ((100, ["socket:[11]", "socket:[12]"]), (200, ["/dev/null", "socket:[13]", "anon_inode:[eventpoll]"])):
        folder = tmp_path / str(pid) / "fd"
        folder.mkdir(parents=True)
        for number, target in enumerate(targets):
            (folder / str(number)).symlink_to(target)
    (tmp_path / "self").mkdir()
    return tmp_path


def test_owners_are_found_by_inode(process_tree):
    assert {11: 100, 13: 200} == owners.scan_descriptors({11, 13, 99}, process_tree, lambda _: None)


def test_a_process_that_has_ended_or_may_not_be_looked_into_owns_nothing(process_tree):
    (process_tree / "300").mkdir()
    (process_tree / "100/fd/1").unlink()

    assert {11: 100, 13: 200} == owners.scan_descriptors({11, 12, 13}, process_tree, lambda _: None)


def test_descriptors_that_close_while_they_are_read_are_passed_over(process_tree, monkeypatch):
    read = os.readlink

    def vanishing(path):
        if path.endswith("100/fd/0"):
            raise FileNotFoundError(path)
        return read(path)

    monkeypatch.setattr(os, "readlink", vanishing)
    assert {12: 100, 13: 200} == owners.scan_descriptors({11, 12, 13}, process_tree, lambda _: None)


def own_socket(listener):
    found = sock_diag.read_table(99).sockets
    return found[found["sport"] == listener.getsockname()[1]]


@pytest.mark.parametrize("use_psutil", [False, True])
def test_a_socket_of_ours_has_our_pid_and_name(use_psutil):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        mine = own_socket(listener)
        owners.find_owners(mine, np.arange(1), use_psutil)

        assert [(os.getpid(), psutil.Process().name().encode()[:15])] == mine[["tgid", "comm"]].tolist()


@pytest.mark.parametrize("failure", [psutil.AccessDenied(1), psutil.NoSuchProcess(1), PermissionError(), RuntimeError("broken table")])
def test_where_psutil_fails_the_descriptors_are_looked_through(failure, monkeypatch):
    def refuse(_):
        raise failure

    monkeypatch.setattr(psutil, "net_connections", refuse)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        mine = own_socket(listener)
        owners.find_owners(mine, np.arange(1), use_psutil=True)

        assert [os.getpid()] == mine["tgid"].tolist()


def test_namespaces_have_names_and_processes(tmp_path):
    named = tmp_path / "blue"
    named.write_text("")
    (tmp_path / "100/ns").mkdir(parents=True)
    (tmp_path / "100/ns/net").write_text("")
    (tmp_path / "200").mkdir()

    assert {named.stat().st_ino: ("blue", named)} == {k: v for k, v in names_of_ip_netns(tmp_path).items() if v[0] == "blue"}
    assert {(tmp_path / "100/ns/net").stat().st_ino: tmp_path / "100"} == namespaces_of_processes(tmp_path)
    assert {} == names_of_ip_netns(tmp_path / "nowhere")


@pytest.mark.parametrize(("cost_s", "looks"), [(0.0, 3), (60.0, 1)])
def test_processes_that_take_long_to_look_through_are_looked_through_more_seldom(monkeypatch, tmp_path, cost_s, looks):
    cpu, looked = itertools.count(0.0, cost_s), []

    def look():
        looked.append(next(cpu))
        return {4711: tmp_path}

    sampler = Sampler(totals, 99)
    monkeypatch.setattr(namespaces, "namespaces_of_processes", look)
    monkeypatch.setattr(sampling.time, "thread_time", lambda: next(cpu))
    others = [sampler._others() for _ in range(3)]

    assert looks == len(looked)
    assert all(4711 in found for found in others)


@pytest.mark.parametrize(("cost_s", "looks"), [(0.0, 3), (60.0, 1)])
def test_sockets_in_time_wait_are_looked_at_more_seldom_the_more_there_are(monkeypatch, cost_s, looks):
    cpu, looked = itertools.count(0.0, cost_s), []

    def look(ports):
        looked.append(next(cpu))
        assert ports is not None
        return replace(Holders().time_wait(), total=len(looked))

    monkeypatch.setattr(sock_diag, "read_time_wait", look)
    monkeypatch.setattr(sampling.time, "thread_time", lambda: next(cpu))
    sampler = Sampler(totals, 99)
    found = [sampler.take_table(np.zeros(0, dtype=np.uint64), 2.0).time_wait for _ in range(3)]

    assert [1, *range(2, looks + 1)] == [one.total for one in found if one is not None]


def test_sockets_in_time_wait_are_not_read_for_who_does_not_want_the_ports(monkeypatch):
    monkeypatch.setattr(sock_diag, "read_time_wait", lambda _: pytest.fail("they were read"))

    assert Sampler(totals, 99, wants_ports=False).take_table(np.zeros(0, dtype=np.uint64), 2.0).time_wait is None


def test_too_many_in_time_wait_are_not_read_and_that_is_known(monkeypatch):
    monkeypatch.setattr(sampling, "TIME_WAIT_LIMIT", -1)
    found = Sampler(totals, 99).take_table(np.zeros(0, dtype=np.uint64), 2.0).time_wait

    assert found is not None
    assert found.total is None


def totals():
    none = np.zeros(2, dtype=np.uint64)
    transitions = np.zeros((2, 16, 16), dtype=np.uint64)
    return SimpleNamespace(transitions=transitions, accepts=none, retransmits=none, resets_sent=none, resets_received=none)


def test_without_sock_diag_the_text_tables_serve_and_that_is_said(monkeypatch):
    def refuse(_):
        raise OSError(2, "No such file or directory")

    monkeypatch.setattr(sock_diag, "read_table", refuse)
    sample = Sampler(totals, 99).take_table(np.zeros(0, dtype=np.uint64), 2.0)

    assert sample.dump is not None
    assert "proc_net" == sample.dump.source
    assert ("sock_diag: No such file or directory",) == sample.problems


def test_without_any_table_there_is_a_sample_that_says_so(monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(sock_diag, "read_table", refuse)
    monkeypatch.setattr(proc_net, "read_table", refuse)
    sample = Sampler(totals, 99).take_table(None, 2.0)

    assert sample.dump is None
    assert "no socket table: Permission denied" in sample.problems
    assert sample.sockstat["TCP"]["inuse"] >= 0


def sample_until(end_ns):
    reading = Reading(end_ns - 10, end_ns, np.zeros((16, 16), dtype=np.int64))
    return Reconciliation(reading, reading)


class Waiting(Reconciler):
    """A reconciler that has samples, and no thread."""

    def __init__(self, *samples):
        from collections import deque

        self._samples = deque(samples)


def batch_until(now_ms, *events_ms):
    events = np.zeros(len(events_ms), dtype=EVENT_DTYPE)
    events["ts_ns"] = np.array(events_ms, dtype=np.uint64) * 1_000_000
    return EventBatch(events if events_ms else no_events(), now_ms * 1_000_000, 0)


def test_a_sample_waits_until_all_events_from_before_it_have_been_read():
    waiting = Waiting(sample_until(100 * 1_000_000))

    assert waiting.ready(batch_until(100)) is None
    assert waiting.ready(batch_until(150, 90, 99)) is None
    assert waiting.ready(batch_until(150, 99, 140)) is not None
    assert waiting.ready(batch_until(999)) is None


def test_the_table_is_read_as_seldom_as_its_cost_demands():
    now = [0.0]
    pace = Pace(lambda: now[0])
    assert pace.table_is_due()
    pace.spend(0.001)
    assert (0.0, TABLE_PERIOD_S) == (pace.next_table(), pace.period_s)

    now[0] = TABLE_PERIOD_S
    assert pace.table_is_due()
    pace.spend(0.4)
    assert 0.4 / TABLE_PERIOD_S == pace.next_table()
    assert 0.4 * MARGIN / MAX_SHARE == pace.period_s
    now[0] += pace.period_s - 0.1
    assert not pace.table_is_due()
    pace.spend(100.0)
    pace.next_table()
    assert MAX_PERIOD_S == pace.period_s


def test_a_sample_has_as_many_fields_as_the_kernel_told():
    assert (None, None) == (sample_until(1).inuse(), sample_until(1).mini_sockets())


def test_owners_are_those_of_the_table_before():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        sampler = Sampler(totals, 99)
        nobody, everybody = np.zeros(0, dtype=np.uint64), None
        found = []
        for unowned in (everybody, nobody, everybody):
            dump = sampler.take_table(unowned, 2.0).dump
            mine = dump.sockets[dump.sockets["sport"] == listener.getsockname()[1]]
            found.append((dump.owners, mine["tgid"].tolist()))

    assert [(False, [0]), (False, [0]), (True, [os.getpid()])] == found
