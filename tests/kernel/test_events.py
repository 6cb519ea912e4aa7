# SPDX-License-Identifier: Apache-2.0
"""`tcptrace events` against real connections: each transition, its owner, its error."""

import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.kernel.conftest import on_one_cpu

Event = dict[str, Any]
COUNT = 23

CLIENT_CLOSES = [
    ("client", "CLOSE", "SYN_SENT"),
    ("client", "SYN_SENT", "ESTABLISHED"),
    ("server", "LISTEN", "SYN_RECV"),
    ("server", "SYN_RECV", "ESTABLISHED"),
    ("client", "ESTABLISHED", "FIN_WAIT1"),
    ("server", "ESTABLISHED", "CLOSE_WAIT"),
    ("client", "FIN_WAIT1", "FIN_WAIT2"),
    ("server", "CLOSE_WAIT", "LAST_ACK"),
    ("client", "FIN_WAIT2", "CLOSE"),
    ("server", "LAST_ACK", "CLOSE"),
]


def changes(events: list[Event]) -> Counter[tuple[str, str]]:
    return Counter((e["old"], e["new"]) for e in events if e["kind"] == "state")


def of_connections(events: list[Event], port: int) -> dict[str, list[Event]]:
    """
    State changes and accepts of each connection to a server's port, by the socket's address.

    The listener is left out, and so are resets and retransmits, which mini-sockets send too.
    """
    sockets: dict[str, list[Event]] = {}
    for event in events:
        if event["kind"] not in ("state", "accept") or ("LISTEN" in (event["new"], event["old"]) and event["new"] != "SYN_RECV"):
            continue
        if port in (event["sport"], event["dport"]):
            if (event["old"], event["new"]) in (("CLOSE", "SYN_SENT"), ("LISTEN", "SYN_RECV")):
                sockets[f"{event['sock']}#{len(sockets)}"] = [event]
            else:
                known = [key for key in sockets if key.startswith(event["sock"] + "#")]
                assert known, f"without a birth before it: {event}"
                sockets[known[-1]].append(event)
    return sockets


def by_socket(events: list[Event]) -> dict[str, list[tuple[str, str, str]]]:
    """What each socket went through; of two sockets on two CPUs, each of two captures may have another one first."""
    changes: dict[str, list[tuple[str, str, str]]] = {}
    for event in events:
        changes.setdefault(event["sock"], []).append((event["kind"], event["old"], event["new"]))
    return changes


@pytest.mark.parametrize("family", [4, 6])
def test_each_connection_shows_its_ten_transitions_and_its_accept(trace, netns, family):
    tracer = trace()
    before = netns.snmp()
    done = netns.traffic("pairs", count=COUNT, family=family)
    after = netns.snmp()
    events = tracer.stop()

    sockets = of_connections(events, done["port"])
    clients = [s for s in sockets.values() if s[0]["new"] == "SYN_SENT"]
    servers = [s for s in sockets.values() if s[0]["new"] == "SYN_RECV"]
    assert (
        COUNT
        == len(clients)
        == len(servers)
        == after["ActiveOpens"] - before["ActiveOpens"]
        == after["PassiveOpens"] - before["PassiveOpens"]
    )
    for socket in clients:
        assert [(o, n) for who, o, n in CLIENT_CLOSES if who == "client"] == [(e["old"], e["new"]) for e in socket]
    for socket in servers:
        expected = [(o, n) for who, o, n in CLIENT_CLOSES if who == "server"]
        assert expected == [(e["old"], e["new"]) for e in socket if e["kind"] == "state"]
        assert [e["kind"] for e in socket].count("accept") == 1
    assert {family} == {e["family"] for e in events}
    assert {netns.inode} == {e["netns"] for e in events}


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("close", ["client", "server"])
def test_both_ends_have_their_own_owner_and_never_the_others(trace, netns, family, close):
    tracer = trace()
    done = netns.traffic("pairs", count=COUNT, family=family, close=close)
    events = [e for e in tracer.stop() if done["port"] in (e["sport"], e["dport"]) and e["comm"] not in ("python", "python3")]

    client, server = (done["client_pid"], "the-client"), (done["server_pid"], "the-server")
    for event in events:
        mine = client if event["dport"] == done["port"] else server
        assert (event["pid"], event["comm"]) in (mine, (None, None)), event
        assert (event["pid"] is None) == (event["pid_source"] is None)
    unowned = {(e["old"], e["new"]) for e in events if e["pid"] is None}
    assert unowned <= {("LISTEN", "SYN_RECV"), ("SYN_RECV", "ESTABLISHED"), ("ESTABLISHED", "CLOSE_WAIT")}
    accepts = [e for e in events if e["kind"] == "accept"]
    assert [("accept", *server)] * COUNT == [(e["pid_source"], e["pid"], e["comm"]) for e in accepts]


def test_addresses_and_ports_are_those_of_each_end(trace, netns):
    tracer = trace()
    done = netns.traffic("pairs", count=1)
    events = tracer.stop()

    established = [e for e in events if e["new"] == "ESTABLISHED"]
    client, server = sorted(established, key=lambda e: e["sport"] == done["port"])
    assert (client["sport"], done["port"]) == (server["dport"], client["dport"])
    assert {"127.0.0.1"} == {client["saddr"], client["daddr"], server["saddr"], server["daddr"]}
    closes = [e["sport"] for e in events if e["new"] == "CLOSE" and e["old"] != "LISTEN"]
    assert sorted([client["sport"], done["port"]]) == sorted(closes)


def test_an_ipv4_client_of_an_ipv6_listener_counts_as_ipv4_on_both_ends(trace, netns):
    tracer = trace("-4")
    done = netns.traffic("mapped")
    events = of_connections(tracer.stop(), done["port"])

    assert len(events) == 2
    assert {(4, "127.0.0.1", "127.0.0.1")} == {(e["family"], e["saddr"], e["daddr"]) for s in events.values() for e in s if e["sport"]}


def test_a_refused_connect_tells_its_error(trace, netns):
    tracer = trace()
    done = netns.traffic("refused", count=COUNT)
    events = [e for e in tracer.stop() if e["dport"] == done["port"]]

    ends = [e for e in events if e["new"] == "CLOSE"]
    assert [("SYN_SENT", "ECONNREFUSED", done["pid"])] * COUNT == [(e["old"], e["error"], e["pid"]) for e in ends]


def test_a_reset_connection_has_six_transitions_and_the_error_on_the_other_end(trace, netns):
    tracer = trace()
    done = netns.traffic("reset", count=COUNT)
    events = [e for e in tracer.stop() if done["port"] in (e["sport"], e["dport"]) and e["kind"] == "state"]

    connections = [e for e in events if e["new"] != "LISTEN" and (e["old"], e["new"]) != ("LISTEN", "CLOSE")]
    assert {k: v for k, v in changes(connections).items() if k[1] == "CLOSE"} == {("ESTABLISHED", "CLOSE"): 2 * COUNT}
    assert len(connections) == 6 * COUNT
    assert Counter(e["error"] for e in connections if e["new"] == "CLOSE") == {"ECONNRESET": COUNT, None: COUNT}


def test_out_of_ports_is_seen_with_the_process_that_asked(trace, netns):
    netns.sysctl("net.ipv4.ip_local_port_range", "40000 40003")
    tracer = trace()
    done = netns.traffic("no_ports", ports=4)
    events = tracer.stop()

    last = [e for e in events if e["old"] == "SYN_SENT" and e["new"] == "CLOSE"]
    assert [(0, done["pid"], "unlucky", "context")] == [(e["sport"], e["pid"], e["comm"], e["pid_source"]) for e in last]


def test_every_way_to_accept_is_seen_once_with_the_process_that_did(trace, netns):
    tracer = trace()
    done = netns.traffic("accept_variants")
    accepts = [e for e in tracer.stop() if e["kind"] == "accept"]

    assert done["expected"] == {str(e["dport"]): {"pid": e["pid"], "comm": e["comm"]} for e in accepts}
    assert len(done["expected"]) == len(accepts)


def test_a_failed_accept_and_one_of_another_protocol_give_no_event(trace, netns):
    tracer = trace()
    netns.traffic("failed_accepts", count=COUNT)

    assert [e for e in tracer.stop() if e["kind"] == "accept"] == []


def test_time_in_state_is_the_time_between_two_events_of_a_socket(trace, netns):
    tracer = trace()
    done = netns.traffic("pairs", count=COUNT)
    sockets = of_connections(tracer.stop(), done["port"])

    for events in sockets.values():
        states = [e for e in events if e["kind"] == "state"]
        elapsed = [(b["ts_ns"] - a["ts_ns"]) // 1000 for a, b in itertools.pairwise(states)]
        assert [None, *elapsed] == [e["in_state_us"] for e in states]


def test_events_stand_in_the_order_in_which_they_happened(trace, netns):
    tracer = trace()
    netns.traffic("pairs", count=COUNT)
    events = tracer.stop()

    for mine in sockets_of(events).values():
        assert mine == sorted(mine)
    times = [e["ts_ns"] for e in events]
    late = sum(b < a for a, b in itertools.pairwise(times))
    assert late < len(times) / 10, "two CPUs may swap neighbours, one that is kept waiting between its place and its time many"


def sockets_of(events: list[Event]) -> dict[str, list[int]]:
    """The times of each socket's state changes, as they came: each is made under the socket's lock."""
    times: dict[str, list[int]] = {}
    for event in (e for e in events if e["kind"] == "state"):
        times.setdefault(event["sock"], []).append(event["ts_ns"])
    return times


FILTERS: list[tuple[list[str], Callable[[int, int], bool]]] = [
    (["-P", "40001"], lambda client, server: 40001 in (client, server)),
    (["-P", "40001,7003"], lambda client, server: client == 40001 or server == 7003),
    (["-P", "7000-7001"], lambda client, server: server in (7000, 7001)),
]


@pytest.mark.parametrize(("options", "wanted"), FILTERS)
def test_a_port_filter_keeps_whole_connections_on_both_ends(trace, netns, options, wanted):
    tracer = trace(*options)
    clients, servers = [40001, 40003, 40007], [7001, 7003]
    netns.traffic("ports", clients=clients, servers=servers)
    events = [e for e in tracer.stop() if e["kind"] == "accept" or "LISTEN" not in (e["old"], e["new"]) or e["new"] == "SYN_RECV"]

    expected = sum(11 for c in clients for s in servers if wanted(c, s))
    assert expected == len(events)
    assert expected > 0


@pytest.mark.parametrize(
    ("options", "events_each"),
    [
        (["-L", "40001"], {(40001, 7001): 5, (40001, 7003): 5}),
        (["-L", "7003"], {(7003, 40001): 6, (7003, 40003): 6, (7003, 40007): 6}),
        (["-D", "7003"], {(40001, 7003): 5, (40003, 7003): 5, (40007, 7003): 5}),
        (["-L", "40003-40007", "-D", "7001"], {(40003, 7001): 5, (40007, 7001): 5}),
    ],
)
def test_local_and_remote_port_filters_keep_one_end_whole(trace, netns, options, events_each):
    tracer = trace(*options)
    netns.traffic("ports", clients=[40001, 40003, 40007], servers=[7001, 7003])
    events = [e for e in tracer.stop() if e["dport"] != 0]

    births = sum(1 for e in events if e["new"] == "SYN_SENT")
    assert sum(events_each.values()) == len(events)
    for (local, remote), count in events_each.items():
        mine = [e for e in events if e["dport"] == remote and e["sport"] in (local, 0)]
        assert count <= len(mine) <= count + births


def test_a_pid_filter_keeps_what_is_known_to_be_that_process(trace, netns):
    everything = trace()
    named = trace("-c", "the-server")
    # On two CPUs one capture may see the accept before, and the other one after, what happens to the connection meanwhile.
    with on_one_cpu():
        done = netns.traffic("exchange", sizes=[[7, 7]] * COUNT)
    expected = [e for e in everything.stop() if e["pid"] == done["server_pid"]]

    assert by_socket(expected) == by_socket(named.stop())
    assert len(expected) >= 3 * COUNT


def test_an_address_filter_keeps_its_network_alone(trace, netns):
    inside, outside = trace("--addr", "127.0.0.0/30"), trace("--addr", "10.0.0.0/8", "--addr", "::1")
    done = netns.traffic("pairs", count=COUNT)

    assert sum(map(len, of_connections(inside.stop(), done["port"]).values())) == 11 * COUNT
    assert outside.stop() == []
