# SPDX-License-Identifier: Apache-2.0
import ipaddress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracer.errors import UsageError
from tracer.events.filters import MAX_ITEMS, CaptureFilter, UndecidedBirths, network_bytes, parse_networks, parse_ports
from tracer.events.schema import EVENT_DTYPE, Kind, State


@pytest.mark.parametrize(
    ("text", "ranges"),
    [
        ("80", ((80, 80),)),
        ("443,80", ((80, 80), (443, 443))),
        ("8000-8099, 22", ((22, 22), (8000, 8099))),
        ("1-5,4-9,10", ((1, 10),)),
        ("1-65535", ((1, 65535),)),
    ],
)
def test_ports_are_sorted_and_merged_ranges(text, ranges):
    assert ranges == parse_ports(text)


@pytest.mark.parametrize("text", ["80,http", "70000", "9-3", "0", "", "80,,81", "-5", "1-2-3", "\u0663", "80.5", "65536", "1-65536", " "])
def test_a_bad_port_list_is_one_clear_error(text):
    with pytest.raises(UsageError, match="bad port") as error:
        parse_ports(text)

    assert "80,443,8000-8099" in error.value.advice


def test_too_many_ranges_are_refused():
    with pytest.raises(UsageError, match=f"{MAX_ITEMS + 1} port ranges"):
        parse_ports(",".join(str(2 * port) for port in range(1, MAX_ITEMS + 2)))


@pytest.mark.parametrize("text", ["10.0.0.0/99", "10.0.0.1/8", "300.1.1.1", "2001:db8::/129", "host", "", "10.0.0.0/8,x"])
def test_a_bad_network_is_one_clear_error(text):
    with pytest.raises(UsageError, match="bad address"):
        parse_networks([text])


def test_networks_of_both_families_become_16_bytes():
    assert (b"\0" * 10 + b"\xff\xff\x0a\0\0\0", b"\xff" * 13 + b"\0\0\0") == network_bytes(ipaddress.ip_network("10.0.0.0/8"))
    assert (b"\x20\x01\x0d\xb8" + b"\0" * 12, b"\xff" * 4 + b"\0" * 12) == network_bytes(ipaddress.ip_network("2001:db8::/32"))


ADDRESSES = ["10.0.0.1", "10.9.0.1", "192.168.7.7", "2001:db8::1", "::1"]
PORTS = [0, 22, 80, 8000, 8080, 40_001]


def event(saddr="10.0.0.1", daddr="2001:db8::1", sport=40_001, dport=80, family=4, netns=5, kind=Kind.STATE, old=0, new=0, sock=1):
    made = np.zeros(1, dtype=EVENT_DTYPE)
    for name, text in (("saddr", saddr), ("daddr", daddr)):
        made[name] = np.frombuffer(network_bytes(ipaddress.ip_network(text))[0], dtype="V16")
    made["sport"], made["dport"], made["family"], made["netns"] = sport, dport, family, netns
    made["kind"], made["old_state"], made["new_state"], made["sock"] = kind, old, new, sock
    return made


def expected(made, wanted, saddr, daddr):
    """The filter's meaning, one event at a time."""

    def inside(port, ranges):
        return any(low <= port <= high for low, high in ranges)

    sport, dport = int(made["sport"][0]), int(made["dport"][0])
    checks = [
        not wanted.family or wanted.family == made["family"][0],
        not wanted.netns or wanted.netns == made["netns"][0],
        not wanted.lports or sport == 0 or inside(sport, wanted.lports),
        not wanted.rports or inside(dport, wanted.rports),
        not wanted.ports or sport == 0 or inside(sport, wanted.ports) or inside(dport, wanted.ports),
        not wanted.networks or any(ipaddress.ip_address(a) in n for a in (saddr, daddr) for n in wanted.networks),
    ]
    return all(checks)


RANGES = st.sampled_from([(), ((80, 80),), ((22, 22), (8000, 8080)), ((40_001, 40_001),)])
FILTERS = st.builds(
    CaptureFilter,
    ports=RANGES,
    lports=RANGES,
    rports=RANGES,
    family=st.sampled_from([0, 4, 6]),
    networks=st.sampled_from([(), parse_networks(["10.0.0.0/16"]), parse_networks(["2001:db8::/32,192.168.7.7"])]),
    netns=st.sampled_from([0, 5]),
)


@settings(deadline=None)
@given(
    FILTERS, st.sampled_from(ADDRESSES), st.sampled_from(ADDRESSES), st.sampled_from(PORTS), st.sampled_from(PORTS), st.sampled_from([4, 6])
)
def test_a_filter_keeps_what_it_says(wanted, saddr, daddr, sport, dport, family):
    made = event(saddr, daddr, sport, dport, family)

    assert [expected(made, wanted, saddr, daddr)] == wanted.keep(made).tolist()


def syn(sock, dport=443):
    return event(sport=0, dport=dport, sock=sock, old=State.CLOSE, new=State.SYN_SENT)


def answer(sock, sport, new=State.ESTABLISHED):
    return event(sport=sport, dport=443, sock=sock, old=State.SYN_SENT, new=new)


def socks_and_ports(events):
    return list(zip(events["sock"].tolist(), events["sport"].tolist(), strict=True))


LOCAL = CaptureFilter(lports=((40_001, 40_001),))


def test_a_birth_without_a_port_waits_for_the_event_that_tells_it():
    births = UndecidedBirths()

    assert [] == socks_and_ports(births.decide(syn(7), LOCAL))
    assert [(7, 0), (7, 40_001)] == socks_and_ports(births.decide(answer(7, 40_001), LOCAL))


def test_a_birth_and_its_answer_in_one_batch_come_out_together():
    events = np.concatenate([syn(7), syn(8), answer(8, 40_001), answer(7, 40_001)])

    assert [(8, 0), (8, 40_001), (7, 0), (7, 40_001)] == socks_and_ports(UndecidedBirths().decide(events, LOCAL))


def test_another_life_at_the_same_address_does_not_release_it():
    births = UndecidedBirths()
    births.decide(syn(7), LOCAL)
    child = event(sport=40_001, sock=7, old=State.LISTEN, new=State.SYN_RECV)

    assert [(7, 40_001)] == socks_and_ports(births.decide(child, LOCAL))


def test_a_connect_that_never_had_a_local_port_does_not_match_one():
    events = np.concatenate([syn(7), answer(7, 0, State.CLOSE)])

    assert [] == socks_and_ports(UndecidedBirths().decide(events, LOCAL))


def test_under_an_either_port_filter_the_remote_port_decides_at_once():
    assert [(7, 0)] == socks_and_ports(UndecidedBirths().decide(syn(7), CaptureFilter(ports=((443, 443),))))


def test_waiting_births_are_bounded_and_counted():
    births = UndecidedBirths(limit=2)
    births.decide(np.concatenate([syn(1), syn(2), syn(3)]), LOCAL)

    assert 1 == births.forgotten
    assert [(1, 40_001)] == socks_and_ports(births.decide(answer(1, 40_001), LOCAL))
