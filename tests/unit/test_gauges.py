# SPDX-License-Identifier: Apache-2.0
"""Gauges against a made host: sockets that live while their table is read, and counters that are read meanwhile."""

import random

import numpy as np
import pytest

from tracer.events.schema import EVENT_DTYPE, STATES, Kind, State
from tracer.state.gauges import FULL_STATES, Gauges, Offsets, bounds_by_events, plain_bounds
from tracer.state.samples import SOCKET_DTYPE, Reading, SocketDump

S = State
MS = 1_000_000
LIFE = (
    (S.CLOSE, S.SYN_SENT),
    (S.SYN_SENT, S.ESTABLISHED),
    (S.ESTABLISHED, S.FIN_WAIT1),
    (S.FIN_WAIT1, S.FIN_WAIT2),
    (S.FIN_WAIT2, S.CLOSE),
)
#: The table is read in this time; the second reading of the counters comes after it.
BEGIN, END, LAST = 1_000 * MS, 1_050 * MS, 1_060 * MS


def history(seed, rate_per_ms, old=50):
    """
    Events of one host, (ts_ns, sock, port, old, new), in order: *old* sockets that are established from the start on and close at some
    time, and connections that come and go.
    """
    chance = random.Random(seed)
    events = []
    for sock in range(old):
        start = chance.randrange(900 * MS, 2_000 * MS)
        events += [(start + i * 1_000, sock, sock + 1, *step) for i, step in enumerate(LIFE[2:])]
    moment, sock = 900 * MS, 1_000
    while moment < 1_100 * MS:
        moment += int(chance.expovariate(rate_per_ms) * MS) + 1
        length = chance.choice([20_000, 200_000, 30 * MS])
        events += [(moment + i * length, sock, 0 if i == 0 else 1_000 + sock % 50_000, *step) for i, step in enumerate(LIFE)]
        sock += 1
    return sorted(events)


def state_of(events, sock, moment, before):
    state = before.get(sock, S.CLOSE)
    for ts, one, _, _, new in events:
        if one == sock and ts <= moment:
            state = new
    return state


def reading(events, moment, length=50_000):
    """Every event up to the moment is in it, none from after its end, and of those in between every second one."""
    counts = np.zeros((STATES, STATES), dtype=np.int64)
    for i, (ts, _, _, old, new) in enumerate(events):
        if ts <= moment or (ts <= moment + length and i % 2):
            counts[old, new] += 1
    return Reading(moment, moment + length, counts)


def as_events(history):
    events = np.zeros(len(history), dtype=EVENT_DTYPE)
    for event, (ts, sock, port, old, new) in zip(events, history, strict=True):
        event["ts_ns"], event["sock"], event["sport"], event["dport"] = ts, sock, port, 80
        event["old_state"], event["new_state"], event["kind"] = old, new, Kind.STATE
    return events


def dump(events, seed, old=50, begin=BEGIN, end=END):
    """Each socket is seen at some moment of its own between the two times."""
    chance = random.Random(seed)
    before = dict.fromkeys(range(old), S.ESTABLISHED)
    ports = {sock: port for _, sock, port, _, _ in events if port}
    seen = []
    for sock in sorted({e[1] for e in events} | set(before)):
        state = state_of(events, sock, chance.randrange(begin + MS, end), before)
        if state != S.CLOSE:
            seen.append((ports.get(sock, sock + 1), state))
    sockets = np.zeros(len(seen), dtype=SOCKET_DTYPE)
    for one, (port, state) in zip(sockets, seen, strict=True):
        one["sport"], one["state"], one["dport"] = port, state, 80
    later = tuple(reading(events, end + MS + i * 200_000) for i in range(4))
    return SocketDump((reading(events, begin), *later), sockets, 0, 0, "sock_diag")


def truth():
    """There were 50 established sockets when the counters began."""
    counts = np.zeros(STATES, dtype=np.int64)
    counts[S.ESTABLISHED] = 50
    return counts


def inside(low, high):
    wanted = truth()
    return [state.name for state in FULL_STATES if not low[state] <= wanted[state] <= high[state]]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("rate_per_ms", [0.05, 1, 10])
def test_what_there_was_before_lies_within_both_bounds_however_busy_the_host(seed, rate_per_ms):
    events = history(seed, rate_per_ms)
    table = dump(events, seed)
    since = as_events([e for e in events if e[0] >= BEGIN - MS])

    assert [] == inside(*plain_bounds(table))
    assert [] == inside(*bounds_by_events(table, since))


def test_events_tell_more_than_the_counters_alone():
    events = history(1, 1.0)
    table = dump(events, 1)
    plain_low, plain_high = plain_bounds(table)
    low, high = bounds_by_events(table, as_events([e for e in events if e[0] >= BEGIN - MS]))

    assert (high - low)[S.ESTABLISHED] < (plain_high - plain_low)[S.ESTABLISHED] / 10


def test_at_rest_one_look_is_exact():
    gauges = Gauges()
    gauges.observe(dump([], 1), None)

    assert gauges.exact.all()
    assert truth().tolist() == gauges.offsets.tolist()


def test_on_a_host_that_never_rests_several_looks_are():
    gauges = Gauges()
    for i in range(12):
        events = history(100 + i, 0.5)
        since = as_events([e for e in events if e[0] >= BEGIN - MS])
        assert 0 == np.abs(gauges.observe(dump(events, i), since)).sum()

    assert gauges.exact.all()
    assert truth().tolist() == gauges.offsets.tolist()


def test_a_look_that_disagrees_is_drift_once_the_next_two_confirm_it_and_is_believed():
    gauges = Gauges()
    gauges.observe(dump([], 1), None)
    fewer = dump([], 1, old=47)

    assert [0, 0] == [gauges.observe(fewer, None)[S.ESTABLISHED] for _ in range(2)]
    assert 50 == gauges.now(np.zeros((STATES, STATES), dtype=np.int64))[S.ESTABLISHED]
    assert 3 == gauges.observe(fewer, None)[S.ESTABLISHED]
    assert 0 == gauges.observe(fewer, None)[S.ESTABLISHED]
    assert 47 == gauges.now(np.zeros((STATES, STATES), dtype=np.int64))[S.ESTABLISHED]


def test_looks_that_disagree_to_either_side_or_seldom_are_no_drift():
    gauges = Gauges()
    gauges.observe(dump([], 1), None)

    looks = [dump([], 1, old=old) for old in (49, 49, 50, 51, 51, 49, 49, 50)]
    assert [0] * 8 == [gauges.observe(look, None)[S.ESTABLISHED] for look in looks]
    assert 50 == gauges.now(np.zeros((STATES, STATES), dtype=np.int64))[S.ESTABLISHED]


def test_bounds_that_overlap_are_narrowed_and_others_replaced():
    offsets = Offsets(1)
    steps = [((0, 10), 0, (0, 10)), ((4, 20), 0, (4, 10)), ((10, 12), 0, (10, 10)), ((13, 15), -3, (13, 15)), ((2, 5), 8, (2, 5))]
    for (low, high), gap, expected in steps:
        assert gap == offsets.observe(np.array([low]), np.array([high]))[0]
        assert expected == (offsets.low[0], offsets.high[0])
