# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from tests.unit.test_connections import CLIENT, S, address, batch, life, only
from tracer.events.batch import EventBatch
from tracer.events.schema import no_events
from tracer.state.connections import ConnectionTable
from tracer.state.healing import heal
from tracer.state.outcomes import Direction
from tracer.state.samples import SOCKET_DTYPE
from tracer.state.sockets import PidSource

BEGIN = 50_000


def sockets(*ports, state=S.ESTABLISHED, dport=80, **fields):
    """The kernel's view of ends such as those of life()."""
    table = np.zeros(len(ports), dtype=SOCKET_DTYPE)
    table["saddr"], table["daddr"] = address(1), address(2)
    table["sport"], table["dport"], table["netns"], table["family"], table["state"] = ports, dport, 99, 4, state
    for name, value in fields.items():
        table[name] = value
    return table


def healed(table, theirs, begin=BEGIN, touching=None):
    return heal(table, theirs, 99, begin, no_events() if touching is None else touching)


@pytest.fixture
def table():
    """Two connections of which events told, both established."""
    made = ConnectionTable()
    made.fold(batch(life(CLIENT[:2], sock=0x10, sport=40_001), life(CLIENT[:2], sock=0x20, sport=40_002)))
    return made


def ports(table):
    return sorted(table.open_connections()["sport"].tolist())


def test_a_table_that_agrees_is_left_alone(table):
    result = healed(table, sockets(40_001, 40_002))

    assert (2, 2, 0, 0, 0) == (result.ours, result.theirs, result.missing, result.ghosts, result.restated)
    assert [40_001, 40_002] == ports(table)


def test_what_is_missing_is_adopted_and_what_is_gone_removed(table):
    result = healed(table, sockets(40_002, 40_003, uid=7, tgid=8, comm=b"prog", cgroup=31))

    assert (1, 1) == (result.missing, result.ghosts)
    assert [40_002, 40_003] == ports(table)
    adopted = table.open_connections()[-1]
    assert (0, Direction.UNKNOWN, PidSource.FD_SCAN, 8, 7, b"prog", 31, 1) == tuple(
        adopted[n] for n in ("opened_ns", "direction", "pid_source", "tgid", "uid", "comm", "cgroup", "incomplete")
    )


def test_an_event_finds_the_connection_that_was_known_by_its_addresses_only(table):
    healed(table, sockets(40_001, 40_002, 40_003, tgid=8, comm=b"prog"))
    ended = only(table.fold(batch(life(CLIENT[2:], sock=0x30, sport=40_003, start=60_000, tgid=9, comm=b"other"))))

    assert (40_003, 8, b"prog", PidSource.FD_SCAN, 0) == tuple(ended[n] for n in ("sport", "tgid", "comm", "pid_source", "opened_ns"))
    assert [40_001, 40_002] == ports(table)


def test_a_socket_that_an_event_has_touched_meanwhile_is_not_adopted(table):
    """It was in the table when that was read, and has closed before the table was applied."""
    closing = life(CLIENT[2:], sock=0x30, sport=40_003, start=BEGIN + 10)
    table.fold(batch(closing))
    result = healed(table, sockets(40_001, 40_002, 40_003), touching=closing)

    assert (0, 0) == (result.missing, result.ghosts)
    assert [40_001, 40_002] == ports(table)


def test_a_connection_that_is_younger_than_the_look_is_no_ghost(table):
    table.fold(batch(life(CLIENT[:2], sock=0x30, sport=40_003, start=BEGIN + 10)))

    assert 0 == healed(table, sockets(40_001, 40_002)).ghosts
    assert [40_001, 40_002, 40_003] == ports(table)


def test_of_two_connections_with_the_same_addresses_the_older_is_a_ghost(table):
    """Its end was lost, and the birth of the next one too: one event of that shows it, at another address of the kernel."""
    table.fold(batch(life([CLIENT[1]], sock=0x70, sport=40_002, start=9_000), lost={"ring_full": 9}))
    result = healed(table, sockets(40_001, 40_002))

    assert 1 == result.ghosts
    assert [40_001, 40_002] == ports(table)
    assert [False, True] == (table.store.get(np.array([0x20, 0x70], dtype=np.uint64))["sport"] != 0).tolist()


def test_an_adopted_connection_goes_when_the_kernel_shows_it_no_longer(table):
    healed(table, sockets(40_001, 40_002, 40_003, 40_004))
    result = healed(table, sockets(40_001, 40_002, 40_004), begin=2 * BEGIN)

    assert (0, 1) == (result.missing, result.ghosts)
    assert [40_001, 40_002, 40_004] == ports(table)


def test_a_state_whose_event_was_lost_is_corrected(table):
    result = healed(table, np.concatenate([sockets(40_001), sockets(40_002, state=S.CLOSE_WAIT)]))

    assert 1 == result.restated
    assert {40_001: S.ESTABLISHED, 40_002: S.CLOSE_WAIT} == {int(c["sport"]): c["state"] for c in table.open_connections()}


def test_a_connect_that_has_no_port_yet_by_its_events_is_the_one_that_the_kernel_shows_with_one():
    table = ConnectionTable()
    table.fold(batch(life(CLIENT[:1], sock=0x10), life(CLIENT[:1], sock=0x20)))
    result = healed(table, sockets(40_005, state=S.SYN_SENT))

    assert (0, 1) == (result.missing, result.ghosts)
    assert [0] == ports(table)


def test_listeners_are_no_connections(table):
    assert (2, 0) == (healed(table, np.concatenate([sockets(40_001, 40_002), sockets(80, state=S.LISTEN, dport=0)])).theirs, 0)


def test_other_namespaces_are_not_judged(table):
    table.fold(batch(np.array([event_elsewhere()])))

    assert 0 == healed(table, sockets(40_001, 40_002)).ghosts
    assert 3 == len(table)


def event_elsewhere():
    event = life(CLIENT[:2], sock=0x90, sport=50_000)[1]
    event["netns"] = 7
    return event


def test_owners_that_a_scan_found_later_are_filled_in_and_known_ones_stay():
    table = ConnectionTable()
    table.fold(batch(life(CLIENT[:2], sock=0x10, sport=40_001, tgid=77)))
    first = healed(table, sockets(40_001, 40_002))
    second = healed(table, sockets(40_001, 40_002, tgid=8, comm=b"prog"), begin=2 * BEGIN)

    assert (1, 0, 0, 1) == (len(first.unowned), first.owned, len(second.unowned), second.owned)
    assert {40_001: 77, 40_002: 8} == {int(c["sport"]): c["tgid"] for c in table.open_connections()}


def test_what_is_adopted_is_bounded():
    table = ConnectionTable(limit=100)
    healed(table, sockets(*range(1_000, 1_500)))

    assert len(table) <= 100
    assert 500 == len(table) + table.forgotten


def test_after_a_loss_a_silent_connection_that_the_kernel_has_is_not_given_up():
    table = ConnectionTable(patience_s=10)
    table.fold(batch(life(CLIENT[:2], sock=0x10, sport=40_001), life(CLIENT[:2], sock=0x20, sport=40_002), lost={"ring_full": 1}))
    healed(table, sockets(40_001, 40_002), begin=9_000_000_000)
    table.fold(EventBatch(no_events(), 15_000_000_000, 0))

    assert (2, 0) == (len(table), table.given_up)
    assert 1 == healed(table, sockets(40_001), begin=16_000_000_000).ghosts


def test_an_adopted_connection_is_found_by_one_life_only():
    """Two sockets with its addresses in one batch, after a loss: one of them is it, and the table stays whole."""
    table = ConnectionTable()
    healed(table, sockets(40_001, 40_002, tgid=8, comm=b"prog"))
    table.fold(batch(life(["retransmit"], sock=0x10, sport=40_001), life([CLIENT[1]], sock=0x20, sport=40_001, start=2_000)))
    table.fold(batch(life(CLIENT[:2], sock=0x30, sport=40_003), life(CLIENT[:2], sock=0x40, sport=40_004, start=9_000)))

    assert [40_001, 40_001, 40_002, 40_003, 40_004] == ports(table)
    assert [0, 8, 8, 77, 77] == sorted(table.open_connections()["tgid"].tolist())


def test_a_connection_that_polling_has_in_time_wait_is_no_ghost():
    table = ConnectionTable()
    table.fold(batch(life([(S.CLOSE, S.ESTABLISHED), (S.ESTABLISHED, S.TIME_WAIT)], sock=1, sport=40_001)))

    assert 0 == healed(table, sockets()).ghosts
    assert [40_001] == ports(table)
