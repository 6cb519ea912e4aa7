# SPDX-License-Identifier: Apache-2.0
"""Passive births without a remote end, as Linux before 6.15 announces them."""

import numpy as np

from tests.unit.test_filters import event, socks_and_ports
from tracer.events.births import BirthNames, name_births, unnamed
from tracer.events.filters import CaptureFilter, UndecidedBirths, parse_networks
from tracer.events.schema import Kind, State


def birth(sock, sport=80):
    """Of a dual-stack listener, which knows no other end."""
    return event("::", "::", sport=sport, dport=0, family=6, sock=sock, old=State.LISTEN, new=State.SYN_RECV)


def established(sock, dport, sport=80):
    return event("10.0.1.2", "192.168.7.7", sport=sport, dport=dport, family=4, sock=sock, old=State.SYN_RECV, new=State.ESTABLISHED)


def ends(events):
    return [tuple(e[name].tolist() for name in ("saddr", "daddr", "sport", "dport", "family")) for e in events]


def test_a_birth_gets_the_ends_of_its_sockets_next_event():
    events = np.concatenate([birth(7), birth(8), established(8, 40_008), established(7, 40_007), birth(9)])
    name_births(events)

    assert ends(events)[0] == ends(established(7, 40_007))[0]
    assert ends(events)[1] == ends(established(8, 40_008))[0]
    assert ends(events)[4] == ends(birth(9))[0]
    assert [State.LISTEN, State.LISTEN, State.SYN_RECV, State.SYN_RECV, State.LISTEN] == events["old_state"].tolist()


def test_a_birth_gets_the_ends_of_an_accept_that_came_before_the_next_transition():
    accept = event("10.0.1.2", "192.168.7.7", sport=80, dport=40_007, family=4, sock=7, kind=Kind.ACCEPT, old=0, new=0)
    events = np.concatenate([birth(7), accept, established(7, 40_007)])
    name_births(events)

    assert ends(events)[0] == ends(established(7, 40_007))[0]


def test_a_birth_gets_nothing_of_another_life_at_its_address():
    events = np.concatenate([birth(7), event(sport=5, dport=443, sock=7, old=State.CLOSE, new=State.SYN_SENT)])
    name_births(events)

    assert unnamed(events).tolist() == [True, False]


def test_a_birth_that_knows_its_ends_is_left_alone():
    events = np.concatenate([event(sport=80, dport=40_001, sock=7, old=State.LISTEN, new=State.SYN_RECV), established(7, 40_002)])
    before = events.copy()
    name_births(events)

    assert (before == events).all()


NOW_NS = 7_000_000_000


def at(events, ago_ns):
    events["ts_ns"] = NOW_NS - ago_ns
    return events


def test_a_birth_at_the_end_of_a_batch_waits_for_a_later_one():
    births, other, nothing = BirthNames(), established(8, 40_008), birth(7)[:0]

    assert [8] == births.name(np.concatenate([at(birth(7), 500), other]), NOW_NS)["sock"].tolist()
    assert [] == births.name(nothing, NOW_NS).tolist()
    events = births.name(np.concatenate([other, established(7, 40_007)]), NOW_NS)
    assert [7, 8, 7] == events["sock"].tolist()
    assert ends(events)[0] == ends(events)[2] == ends(established(7, 40_007))[0]
    assert births.rest() is None


def test_a_birth_waits_for_a_second_and_no_longer():
    births, nothing = BirthNames(), birth(7)[:0]

    assert [] == births.name(at(birth(7), 0), NOW_NS).tolist()
    assert [] == births.name(nothing, NOW_NS + 999_999_999).tolist()
    assert ends(birth(7)) == ends(births.name(nothing, NOW_NS + 1_000_000_000))
    assert [] == births.name(at(birth(8), 0), NOW_NS).tolist()
    assert [] == births.name(at(birth(9), 0), NOW_NS).tolist()
    assert [8, 9] == births.rest()["sock"].tolist()


FILTERS = [
    CaptureFilter(rports=((40_007, 40_007),)),
    CaptureFilter(ports=((40_007, 40_007),)),
    CaptureFilter(family=4),
    CaptureFilter(networks=parse_networks(["192.168.7.0/24"])),
]


def test_under_a_filter_of_the_remote_end_a_birth_waits_for_the_event_that_the_kernel_side_keeps():
    for wanted in FILTERS:
        births = UndecidedBirths()

        assert [] == socks_and_ports(births.decide(np.concatenate([birth(7), birth(8)]), wanted))
        assert [(7, 80), (7, 80)] == socks_and_ports(births.decide(established(7, 40_007), wanted))


def test_without_one_it_does_not_wait():
    assert [(7, 80)] == socks_and_ports(UndecidedBirths().decide(birth(7), CaptureFilter(lports=((80, 80),))))
    assert [(7, 80)] == socks_and_ports(UndecidedBirths().decide(birth(7), CaptureFilter()))
