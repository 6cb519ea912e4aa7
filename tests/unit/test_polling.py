# SPDX-License-Identifier: Apache-2.0
import os
import socket
from types import SimpleNamespace

import pytest

from tracer.events.filters import CaptureFilter
from tracer.events.schema import Flag, State
from tracer.kernel.plan import CapturePlan
from tracer.reconcile.polling import PollingCapture

ME = os.getpid()


def entry(status="ESTABLISHED", local=("10.0.0.1", 1001), remote=("10.0.0.2", 2002), pid=ME, family=socket.AF_INET):
    return SimpleNamespace(family=family, status=status, laddr=local, raddr=remote, pid=pid)


@pytest.fixture
def polled():
    """Captures whose looks are the given tables, one after the other."""

    def make(*tables, keep=None):
        looks = iter(tables)
        return PollingCapture(CapturePlan(keep or CaptureFilter()), lambda: next(looks))

    return make


def changes(batch):
    return [(State(e["old_state"]).name, State(e["new_state"]).name) for e in batch.events]


def test_what_was_open_before_is_no_event(polled):
    assert [] == changes(polled([entry()], [entry()]).take())


def test_a_socket_that_came_changed_and_went_gives_one_event_each(polled):
    capture = polled([], [entry()], [entry("CLOSE_WAIT")], [])
    seen = [changes(capture.take()) for _ in range(3)]

    assert [[("CLOSE", "ESTABLISHED")], [("ESTABLISHED", "CLOSE_WAIT")], [("CLOSE_WAIT", "CLOSE")]] == seen


def test_a_connection_keeps_its_identity_and_a_later_one_gets_another(polled):
    capture = polled([], [entry()], [entry("FIN_WAIT1")], [], [entry()])
    first, second, third, fourth = (capture.take().events["sock"].tolist() for _ in range(4))

    assert first == second == third
    assert first != fourth


def test_the_owner_comes_from_the_scan_and_stays_when_the_process_lets_go(polled):
    capture = polled([], [entry()], [entry("TIME_WAIT", pid=None)])
    opened, waiting = capture.take().events[0], capture.take().events[0]

    assert os.getpid() == opened["tgid"] == waiting["tgid"]
    assert Flag.HAS_OWNER | Flag.OWNER_BY_SCAN == opened["flags"]


def test_a_socket_of_an_unknown_owner_has_none(polled):
    event = polled([], [entry(pid=None)]).take().events[0]

    assert (0, 0, b"") == (event["tgid"], event["flags"], event["comm"])


def test_a_v4_mapped_socket_counts_as_ipv4(polled):
    mapped = entry(local=("::ffff:10.0.0.1", 1001), remote=("::ffff:10.0.0.2", 2002), family=socket.AF_INET6)
    event = polled([], [mapped]).take().events[0]

    assert 4 == event["family"]
    assert b"\0" * 10 + b"\xff\xff\n\0\0\1" == event["saddr"].tobytes()


def test_the_filter_applies_and_what_it_drops_is_counted(polled):
    capture = polled([], [entry(), entry(local=("10.0.0.1", 1003))], keep=CaptureFilter(lports=((1003, 1003),)))
    batch = capture.take()

    assert [1003] == batch.events["sport"].tolist()
    assert (1, 1) == (capture.counters().records, capture.counters().filtered)
