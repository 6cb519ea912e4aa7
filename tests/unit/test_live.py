# SPDX-License-Identifier: Apache-2.0
"""What the console is made of: rates, gauges, the kernel's tables, clocks, owner filters."""

import numpy as np
import pytest

from tracer.events.batch import EventBatch
from tracer.events.clock import TOLERANCE_NS, WallClock
from tracer.events.schema import EVENT_DTYPE, STATES, Kind, State
from tracer.reconcile.proc_net import parse_sockstat, parse_table
from tracer.state.rates import RATES, RateTable
from tracer.state.samples import state_changes
from tracer.state.select import CgroupTree, OwnerFilter
from tracer.state.sockets import CONTEXT_DTYPE, PidSource

NS = 1_000_000_000
S = State


def batch(*steps, now_s):
    """(second, old, new, error, sport) of each event; without states an accept."""
    events = np.zeros(len(steps), dtype=EVENT_DTYPE)
    for event, (second, old, new, error, sport) in zip(events, steps, strict=True):
        event["ts_ns"], event["old_state"], event["new_state"], event["error"], event["sport"] = second * NS, old, new, error, sport
        event["kind"] = Kind.STATE if new else Kind.ACCEPT
    return EventBatch(events, int(now_s * NS), 100 * NS)


def test_each_event_counts_in_its_own_second_and_kind():
    table = RateTable(seconds=5)
    table.fold(
        batch(
            (1, S.CLOSE, S.SYN_SENT, 0, 0),
            (1, S.CLOSE, S.SYN_SENT, 0, 0),
            (2, S.SYN_SENT, S.ESTABLISHED, 0, 9),
            (2, 0, 0, 0, 9),
            (3, S.SYN_SENT, S.CLOSE, 111, 9),
            (3, S.SYN_SENT, S.CLOSE, 0, 0),
            (3, S.SYN_SENT, S.CLOSE, 0, 9),
            (3, S.LISTEN, S.CLOSE, 0, 9),
            now_s=4,
        )
    )

    rows = dict(zip(RATES, table.counts().tolist(), strict=True))
    assert [0, 2, 2, 4, 0] == rows["events"]
    assert [0, 2, 0, 0, 0] == rows["opened"]
    assert [0, 0, 1, 0, 0] == rows["established"] == rows["accepted"]
    assert ([0, 0, 0, 3, 0], [0, 0, 0, 2, 0]) == (rows["closed"], rows["failed"])
    assert (104, 2) == (table.newest, table.per_second()["failed"])


def test_seconds_move_on_without_events_and_old_ones_leave():
    table = RateTable(seconds=3)
    table.fold(batch((1, S.CLOSE, S.SYN_SENT, 0, 0), now_s=1))
    table.fold(batch(now_s=3))
    assert [1, 0, 0] == dict(zip(RATES, table.counts().tolist(), strict=True))["opened"]

    table.fold(batch(now_s=1_000))
    assert 0 == table.counts().sum()


def test_a_childs_birth_does_not_take_a_listener_away():
    transitions = np.zeros((STATES, STATES), dtype=np.int64)
    transitions[S.CLOSE, S.LISTEN] = 1
    transitions[S.LISTEN, S.SYN_RECV] = 5
    transitions[S.SYN_RECV, S.ESTABLISHED] = 4

    changes = state_changes(transitions)
    assert (1, 1, 4) == tuple(int(changes[s]) for s in (S.LISTEN, S.SYN_RECV, S.ESTABLISHED))


PROC_NET_TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 x 100 0 0 10 0
   1: 0100007F:1F90 0100007F:9C40 01 00000000:00000000 02:000A7D8C 00000000     0        0 2 2 x 20 4 30 10 -1
   2: 0100007F:1F90 0100007F:9C41 06 00000000:00000000 03:00001770 00000000     0        0 0 3 x
   3: 0100007F:1F90 0100007F:9C42 05 00000000:00000000 03:00001770 00000000     0        0 0 3 x
   4: 0100007F:1F90 0100007F:9C43 03 00000000:00000000 01:00000064 00000000     0        0 0 1 x
   5: 0100007F:1F90 0100007F:9C44 05 00000000:00000000 00:00000000 00000000     0        0 9 1 x
broken
"""


def test_only_full_sockets_are_sockets():
    table = parse_table(PROC_NET_TCP.splitlines(), netns=7)

    assert [S.LISTEN, S.ESTABLISHED, S.FIN_WAIT2] == table.sockets["state"].tolist()
    assert (1, 1) == (table.requests, table.minis)


def test_sockstat_keeps_what_it_does_not_know():
    text = "sockets: used 11\nTCP: inuse 1 orphan 0 tw 7 alloc 3 mem 2 novel 5\nodd line\nUDP: inuse x mem 1\n"
    table = parse_sockstat(text)

    assert {"inuse": 1, "orphan": 0, "tw": 7, "alloc": 3, "mem": 2, "novel": 5} == table["TCP"]
    assert ({"mem": 1}, 11) == (table["UDP"], table["sockets"]["used"])


def test_the_wall_clock_follows_jumps_and_ignores_noise():
    readings = iter([1_000, 1_000 + TOLERANCE_NS // 2, 1_000 + 3 * TOLERANCE_NS, 5])
    clock = WallClock(lambda: next(readings))

    assert [1_000, 1_000 + 3 * TOLERANCE_NS, 5] == [clock.offset_ns() for _ in range(3)]


@pytest.fixture
def context():
    made = np.zeros(4, dtype=CONTEXT_DTYPE)
    made["tgid"], made["comm"], made["pid_source"] = [7, 8, 8, 0], [b"a", b"b", b"a", b""], [1, 2, 3, PidSource.NONE]
    return made


@pytest.mark.parametrize(
    ("wanted", "kept"),
    [
        (OwnerFilter(tgids=frozenset({8})), [False, True, True, False]),
        (OwnerFilter(comms=frozenset({"a"})), [True, False, True, False]),
        (OwnerFilter(tgids=frozenset({8}), comms=frozenset({"a"})), [False, False, True, False]),
        (OwnerFilter(tgids=frozenset({0})), [False] * 4),
    ],
)
def test_only_known_owners_can_match(context, wanted, kept):
    assert kept == wanted.keep(context).tolist()


def test_a_cgroup_stands_for_all_below_it_also_for_what_is_made_later(context, tmp_path):
    outside, inside = tmp_path / "other", tmp_path / "mine" / "inner"
    outside.mkdir()
    inside.mkdir(parents=True)
    tree = CgroupTree(tmp_path / "mine")
    context["cgroup"] = [inside.stat().st_ino, outside.stat().st_ino, inside.parent.stat().st_ino, 0]

    assert [True, False, True, False] == OwnerFilter(cgroups=tree).keep(context).tolist()
    late = inside / "late"
    late.mkdir()
    assert tree.contains(late.stat().st_ino)
