# SPDX-License-Identifier: Apache-2.0
"""`tcptrace conns` against real connections: owner, totals, timing, and why each ended."""

import subprocess
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.kernel.conftest import Namespace, Tracer, wait_until

Connection = dict[str, Any]
COUNT = 23


@pytest.fixture
def trace_conns(start: Callable[..., Tracer], netns: Namespace) -> Callable[..., Tracer]:
    """Starts `tcptrace conns --format json` on the test's own namespace."""
    return lambda *arguments: start("conns", "--format", "json", "--netns", netns.name, *arguments)


def ends(connections: list[Connection], port: int) -> tuple[list[Connection], list[Connection]]:
    """The clients' ends and the servers' ends of the connections to a port."""
    return [c for c in connections if c["dport"] == port], [c for c in connections if c["sport"] == port]


@pytest.mark.parametrize("family", [4, 6])
def test_a_connection_is_one_line_for_each_end_with_its_own_owner(trace_conns, netns, family):
    tracer = trace_conns()
    done = netns.traffic("pairs", count=COUNT, family=family)
    connections = tracer.stop()
    clients, servers = ends(connections, done["port"])

    assert COUNT == len(clients) == len(servers) == len(connections) // 2
    assert {("active", done["client_pid"], "the-client", "context", family)} == {
        (c["direction"], c["pid"], c["comm"], c["pid_source"], c["family"]) for c in clients
    }
    assert {("passive", done["server_pid"], "the-server", "accept", family)} == {
        (c["direction"], c["pid"], c["comm"], c["pid_source"], c["family"]) for c in servers
    }
    assert all(c["complete"] and c["netns"] == netns.inode and c["error"] is None for c in connections)
    assert sorted(c["sport"] for c in clients) == sorted(c["dport"] for c in servers)


@pytest.mark.parametrize("family", [4, 6])
def test_bytes_are_what_the_programs_sent(trace_conns, netns, family):
    sizes = [[0, 0], [1, 0], [0, 1], [101, 1009], [70_001, 3], [1_000_003, 500_009]]
    tracer = trace_conns()
    done = netns.traffic("exchange", sizes=sizes, family=family)
    clients, servers = ends(tracer.stop(), done["port"])

    by_port = {c["sport"]: c for c in clients}
    assert sizes == [[by_port[p]["bytes_sent"], by_port[p]["bytes_received"]] for p in done["clients"]]
    by_peer = {c["dport"]: c for c in servers}
    assert sizes == [[by_peer[p]["bytes_received"], by_peer[p]["bytes_sent"]] for p in done["clients"]]


def test_a_late_accept_shows_the_wait_that_it_caused(trace_conns, netns):
    tracer = trace_conns()
    done = netns.traffic("late_accept", wait_s=0.31)
    clients, servers = ends(tracer.stop(), done["port"])

    # The client may go to sleep a little before the last part of the handshake has arrived.
    assert 290_000 <= servers[0]["accept_wait_us"] <= servers[0]["duration_ms"] * 1000
    assert clients[0]["accept_wait_us"] is None
    assert 0 < clients[0]["handshake_us"] < clients[0]["duration_ms"] * 1000
    assert servers[0]["handshake_us"] is None


def test_the_accepting_process_owns_a_connection_that_another_closes(trace_conns, netns):
    tracer = trace_conns()
    done = netns.traffic("fork_passing")
    _, servers = ends(tracer.stop(), done["port"])

    assert [(done["parent"], "the-parent", "accept")] == [(c["pid"], c["comm"], c["pid_source"]) for c in servers]


def outcomes(tracer: Tracer, port: int) -> tuple[Counter[tuple[str, str | None]], Counter[tuple[str, str | None]]]:
    clients, servers = ends(tracer.stop(), port)
    return Counter((c["outcome"], c["error"]) for c in clients), Counter((c["outcome"], c["error"]) for c in servers)


@pytest.mark.parametrize(
    ("scenario", "arguments", "client", "server"),
    [
        ("pairs", {"count": 5, "close": "client"}, {("closed_local", None): 5}, {("closed_remote", None): 5}),
        ("pairs", {"count": 5, "close": "server"}, {("closed_remote", None): 5}, {("closed_local", None): 5}),
        ("half_close", {}, {("closed_local", None): 1}, {("closed_remote", None): 1}),
        ("reset", {"count": 5}, {("reset_sent", None): 5}, {("reset_received", "ECONNRESET"): 5}),
        ("reset_while_talking", {"by": "client"}, {("reset_sent", None): 1}, {("reset_received", "ECONNRESET"): 1}),
        ("reset_while_talking", {"by": "server"}, {("reset_received", "ECONNRESET"): 1}, {("reset_sent", None): 1}),
        ("refused", {"count": 5}, {("refused", "ECONNREFUSED"): 5}, {}),
        ("aborted_in_queue", {"count": 5}, {("reset_received", "ECONNRESET"): 5}, {("aborted_in_queue", None): 5}),
        ("killed", {}, {("error", "ECONNABORTED"): 1}, {("reset_received", "ECONNRESET"): 1}),
    ],
)
def test_each_end_tells_why_it_ended(trace_conns, netns, scenario, arguments, client, server):
    tracer = trace_conns()
    done = netns.traffic(scenario, **arguments)

    assert (client, server) == outcomes(tracer, done["port"])


@pytest.mark.parametrize(("scenario", "expected"), [("timeout", ("timeout", "ETIMEDOUT")), ("cancelled", ("cancelled", None))])
def test_a_connect_that_nobody_answers_times_out_or_is_cancelled(trace_conns, netns, scenario, expected):
    tracer = trace_conns()
    done = netns.traffic(scenario)
    mine = [c for c in tracer.stop() if c["dport"] == done["port"] and c["handshake_us"] is None]

    assert [(*expected, done["pid"])] == [(c["outcome"], c["error"], c["pid"]) for c in mine]


def test_a_syn_that_is_sent_again_is_a_retransmit_event_and_counts(start, trace_conns, netns):
    events, tracer = start("events", "--format", "json", "--netns", netns.name), trace_conns()
    before = netns.snmp()
    done = netns.traffic("timeout")
    after = netns.snmp()
    mine = [c for c in tracer.stop() if c["dport"] == done["port"] and c["outcome"] == "timeout"]
    again = [e for e in events.stop() if e["kind"] == "retransmit" and e["dport"] == done["port"]]

    sent_again = after["RetransSegs"] - before["RetransSegs"]
    assert sent_again > 0
    assert [sent_again] == [c["retransmits"] for c in mine]
    assert {done["pid"]} == {e["pid"] for e in again}


def test_resets_are_events_on_both_ends(trace, netns):
    tracer = trace()
    done = netns.traffic("reset", count=COUNT)
    kinds = Counter((e["kind"], e["dport"] == done["port"]) for e in tracer.stop() if e["kind"].startswith("reset"))

    assert {("reset_sent", True): COUNT, ("reset_received", False): COUNT} == kinds


def test_out_of_ports_has_its_own_outcome(trace_conns, netns):
    netns.sysctl("net.ipv4.ip_local_port_range", "40000 40003")
    tracer = trace_conns("--outcome", "no_ports")
    done = netns.traffic("no_ports", ports=4)

    assert [("no_ports", done["pid"], "unlucky", 0)] == [(c["outcome"], c["pid"], c["comm"], c["sport"]) for c in tracer.stop()]


def test_of_two_listeners_on_one_port_each_owns_what_it_accepted(trace_conns, netns):
    tracer = trace_conns()
    done = netns.traffic("reuseport", count=COUNT)
    _, servers = ends(tracer.stop(), done["port"])

    expected = {port: (name, done["pids"][name]) for port, name in done["answers"]}
    assert expected == {c["dport"]: (c["comm"], c["pid"]) for c in servers}
    assert COUNT == len(servers)


def test_data_in_a_syn_is_counted_once_on_both_ends(trace_conns, netns):
    netns.sysctl("net.ipv4.tcp_fastopen", "3")
    tracer = trace_conns()
    done = netns.traffic("fast_open", size=701)
    clients, servers = ends(tracer.stop(), done["port"])

    assert [(701, 0, "active")] * 2 == [(c["bytes_sent"], c["bytes_received"], c["direction"]) for c in clients]
    assert [(0, 701, "passive")] * 2 == [(c["bytes_sent"], c["bytes_received"], c["direction"]) for c in servers]
    assert all(c["accept_wait_us"] is not None and c["accept_wait_us"] >= 0 for c in servers)


def test_a_simultaneous_open_is_one_connection(trace_conns, netns):
    tracer = trace_conns()
    done = netns.traffic("self_connect", port=45_678)
    mine = [c for c in tracer.stop() if c["sport"] == 45_678]

    assert [("active", done["pid"], 5, 5, "closed_local")] == [
        (c["direction"], c["pid"], c["bytes_sent"], c["bytes_received"], c["outcome"]) for c in mine
    ]


@pytest.fixture
def behind_router(netns):
    """The test's namespace behind a router that calls 10.99.0.0/16 unreachable."""
    router = Namespace()
    steps = [
        f"-n {netns.name} link add up0 type veth peer name down0 netns {router.name}",
        f"-n {netns.name} addr add 10.98.0.1/24 dev up0",
        f"-n {router.name} addr add 10.98.0.2/24 dev down0",
        f"-n {netns.name} link set up0 up",
        f"-n {router.name} link set down0 up",
        f"-n {netns.name} route add default via 10.98.0.2",
        f"-n {router.name} route add unreachable 10.99.0.0/16",
    ]
    for step in steps:
        subprocess.run(["ip", *step.split()], check=True)
    router.sysctl("net.ipv4.ip_forward", "1")
    yield netns
    router.delete()


def test_an_unreachable_host_is_told_from_a_refusal(trace_conns, behind_router):
    tracer = trace_conns()
    done = behind_router.traffic("unreachable", address="10.99.0.7")

    assert [("unreachable", "EHOSTUNREACH", done["pid"], "10.99.0.7")] == [
        (c["outcome"], c["error"], c["pid"], c["daddr"]) for c in tracer.stop()
    ]


def test_a_connection_that_began_before_the_capture_is_not_complete(trace_conns, netns):
    holder = subprocess.Popen(netns.command("python3", "-c", HOLD), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    port = int(holder.stdout.readline())
    tracer = trace_conns()
    holder.communicate("go\n")
    wait_until(lambda: len(tracer.events()) == 2, "both ends to end")
    clients, servers = ends(tracer.stop(), port)

    assert [(None, False, "unknown", "closed_local")] == [(c["opened"], c["complete"], c["direction"], c["outcome"]) for c in clients]
    assert [(None, False, "unknown", "closed_remote")] == [(c["opened"], c["complete"], c["direction"], c["outcome"]) for c in servers]


HOLD = """
import socket
server = socket.socket(); server.bind(("127.0.0.1", 0)); server.listen()
client = socket.create_connection(server.getsockname()); accepted, _ = server.accept()
print(server.getsockname()[1], flush=True)
input()
client.close(); accepted.recv(1); accepted.close()
"""


def test_after_a_loss_nothing_is_called_complete_and_no_owner_is_wrong(start, netns):
    tracer = start("conns", "--format", "json", "--ring-size", "4K", "--netns", netns.name)
    done = netns.traffic("pairs", count=499)
    tracer.end()
    connections = tracer.events()

    assert tracer.summary()["lost"] > 0
    clients, servers = ends(connections, done["port"])
    assert {(done["client_pid"], "the-client"), (None, None)} >= {(c["pid"], c["comm"]) for c in clients}
    assert {(done["server_pid"], "the-server"), (None, None)} >= {(c["pid"], c["comm"]) for c in servers}
    assert all(c["duration_ms"] is None or 0 <= c["duration_ms"] < 20_000 for c in connections)
    assert all(c["opened"] is not None for c in connections if c["complete"])


def test_sort_and_top_give_the_largest_at_the_end(trace_conns, netns):
    tracer = trace_conns("--sort", "sent", "--top", "2")
    netns.traffic("exchange", sizes=[[10, 0], [5_000, 0], [300, 0], [40_000, 0]])

    assert [40_000, 5_000] == [c["bytes_sent"] for c in tracer.stop()]


def test_open_shows_the_connections_of_now_once(netns):
    import json
    import sys

    from tests.kernel.conftest import ROOT

    holder = subprocess.Popen(netns.command("python3", "-c", HOLD), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    port = int(holder.stdout.readline())
    command = netns.command(sys.executable, "-m", "tracer", "conns", "--open", "--format", "json")
    shown = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    holder.communicate("go\n")
    clients, servers = ends([json.loads(line) for line in shown.stdout.splitlines()], port)

    assert [(holder.pid, "fd_scan", None)] == [(c["pid"], c["pid_source"], c["closed"]) for c in clients]
    assert [(holder.pid, "fd_scan", None)] == [(c["pid"], c["pid_source"], c["closed"]) for c in servers]


def test_names_never_make_the_capture_wait(trace_conns, netns):
    tracer = trace_conns("-d")
    done = netns.traffic("pairs", count=COUNT)
    wait_until(lambda: len(tracer.events()) == 2 * COUNT, "all connections to be written")

    assert done["port"] in {c["dport"] for c in tracer.stop()}
