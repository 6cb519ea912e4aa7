# SPDX-License-Identifier: Apache-2.0
"""The gauges and the table against the kernel: sockets from before the start, losses, other namespaces, polling."""

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.kernel.conftest import PATIENCE, ROOT, Namespace, Tracer, wait_until

COUNT = 23
#: More than a look at a test's table takes.
LOOK_S = 0.05 * PATIENCE
HOLDER = Path(__file__).with_name("holder.py")
SS_STATES = {
    "ESTAB": "ESTABLISHED",
    "SYN-SENT": "SYN_SENT",
    "SYN-RECV": "SYN_RECV",
    "FIN-WAIT-1": "FIN_WAIT1",
    "FIN-WAIT-2": "FIN_WAIT2",
    "TIME-WAIT": "TIME_WAIT",
    "CLOSE-WAIT": "CLOSE_WAIT",
    "LAST-ACK": "LAST_ACK",
    "LISTEN": "LISTEN",
    "CLOSING": "CLOSING",
}


class Holder:
    """A process that holds sockets in some arrangement until it is told to go on."""

    def __init__(self, namespace: Namespace, arrangement: str, *arguments: str) -> None:
        command = namespace.command(sys.executable, str(HOLDER), arrangement, *arguments)
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"{arrangement} did not come about"
        self.told: dict[str, Any] = json.loads(line)

    def step(self) -> dict[str, Any]:
        """Lets it do the next thing; what it says of it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        told: dict[str, Any] = json.loads(self.process.stdout.readline())
        return told

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


@pytest.fixture
def hold(netns: Namespace) -> Iterator[Callable[..., Holder]]:
    """Starts a holder in the test's namespace; ended with the test."""
    holders: list[Holder] = []

    def begin(arrangement: str, *arguments: object) -> Holder:
        holders.append(Holder(netns, arrangement, *map(str, arguments)))
        return holders[-1]

    yield begin
    for holder in holders:
        holder.end()


@pytest.fixture
def live(start: Callable[..., Tracer], netns: Namespace) -> Callable[..., Tracer]:
    """Starts `tcptrace live --json` on the test's own namespace."""
    return lambda *options: start("live", "--json", "--refresh", "0.2", "--netns", netns.name, *options)


def by_ss(namespace: Namespace) -> dict[str, int]:
    lines = namespace.run("ss", "-tanH").splitlines()
    return dict(Counter(SS_STATES[line.split()[0]] for line in lines))


def of_snapshot(snapshot: dict[str, Any]) -> dict[str, int]:
    return {name: count for name, count in snapshot["states"].items() if count}


def table_looked_at(tracer: Tracer, after: str) -> dict[str, Any] | None:
    """The last snapshot, if it has seen the kernel's table later than at that time."""
    snapshots = tracer.events()
    if not snapshots or snapshots[-1]["drift"] is None or snapshots[-1]["drift"]["complete_s"] is None:
        return None
    last: dict[str, Any] = snapshots[-1]
    return last if (last["drift"]["table_time"] or "") > after else None


def next_look(tracer: Tracer, looks: int = 1) -> dict[str, Any]:
    """The first snapshot after so many more looks at the kernel's table, none of which had begun before."""
    last: dict[str, Any] = {}
    after = rfc3339(time.time_ns() + int(LOOK_S * 1e9))
    for _ in range(looks):
        last = wait_until(partial(table_looked_at, tracer, after), "another look at the kernel's table")
        after = last["time"]
    return last


def rfc3339(time_ns: int) -> str:
    """As snapshots have their times."""
    return f"{np.datetime64(time_ns, 'ns')}Z"


def drifting(snapshot: dict[str, Any]) -> dict[str, Any]:
    """Whatever is not as the kernel has it."""
    drift = snapshot["drift"]
    rows = drift["states"] | drift["counters"] | {"sockets": drift["sockets"]}
    return {name: row for name, row in rows.items() if row["drift"]}


def test_sockets_from_before_the_start_are_there_with_state_and_owner(hold, live, netns):
    holder = hold("pairs", COUNT)
    tracer = live()
    snapshot = next_look(tracer)

    assert {"LISTEN": 1, "ESTABLISHED": 2 * COUNT} == of_snapshot(snapshot) == by_ss(netns)
    assert [(holder.told["pid"], "the-holder", 2 * COUNT)] == [(p["pid"], p["comm"], p["open"]) for p in snapshot["top"]["processes"]]
    assert {holder.told["port"]: COUNT} == {p["port"]: p["open"] for p in snapshot["top"]["local_ports"] if p["open"] > 1}
    assert [{"address": "127.0.0.1", "open": 2 * COUNT}] == snapshot["top"]["remote_addresses"]
    assert snapshot["exact"]
    assert {} == drifting(snapshot)


def test_what_was_open_before_and_closes_leaves_no_ghost(hold, live, netns):
    holder = hold("pairs", COUNT)
    tracer = live()
    next_look(tracer)
    holder.step()
    snapshot = next_look(tracer)

    assert {"LISTEN": 1, "TIME_WAIT": COUNT} == of_snapshot(snapshot) == by_ss(netns)
    snapshot = next_look(tracer)
    assert (0, 0, 0) == tuple(snapshot["drift"]["table"][name] for name in ("ours", "kernel", "ghosts_removed"))
    assert 0 == snapshot["totals"]["connections"]


def test_conns_knows_the_owner_of_a_connection_from_before_the_start(hold, start, netns):
    holder = hold("pairs", COUNT)
    tracer = start("conns", "--format", "json", "--netns", netns.name)
    table = start("live", "--json", "--refresh", "0.2", "--netns", netns.name)
    next_look(table, looks=2)
    holder.step()
    wait_until(lambda: len(tracer.events()) == 2 * COUNT, "all connections to end")
    ended = tracer.stop()

    assert {(None, holder.told["pid"], "the-holder", "fd_scan", "unknown", False)} == {
        (c["opened"], c["pid"], c["comm"], c["pid_source"], c["direction"], c["complete"]) for c in ended
    }


def test_open_connections_of_a_namespace_have_owner_and_cgroup(hold, netns):
    holder = hold("pairs", COUNT)
    command = [sys.executable, "-m", "tracer", "conns", "--open", "--format", "json", "--netns", netns.name]
    shown = [json.loads(line) for line in subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout.splitlines()]
    cgroup = Path(f"/proc/{holder.told['pid']}/cgroup").read_text().rpartition("::")[2].strip()

    assert 2 * COUNT == len(shown)
    assert {(holder.told["pid"], "the-holder", "fd_scan", cgroup, netns.inode)} == {
        (c["pid"], c["comm"], c["pid_source"], c["cgroup"], c["netns"]) for c in shown
    }


def test_connections_that_open_and_close_while_the_table_is_read_are_neither_missing_nor_ghosts(hold, live, netns):
    hold("pairs", COUNT)
    tracer = live()
    netns.traffic("pairs", count=997)
    snapshot = next_look(tracer, looks=2)

    assert {"LISTEN": 1, "ESTABLISHED": 2 * COUNT} == {name: n for name, n in of_snapshot(snapshot).items() if name != "TIME_WAIT"}
    table = snapshot["drift"]["table"]
    assert (2 * COUNT, 2 * COUNT, 0, 0) == tuple(table[name] for name in ("ours", "kernel", "missing_added", "ghosts_removed"))
    assert {} == drifting(snapshot)


def test_gauges_stay_exact_and_the_table_is_healed_when_most_records_are_lost(hold, live, netns):
    holder = hold("pairs", COUNT)
    tracer = live("--ring-size", "4K")
    next_look(tracer)
    before = netns.snmp()
    holder.step()
    netns.traffic("pairs", count=997)
    later = hold("pairs", 2 * COUNT)
    snapshot = next_look(tracer, looks=2)
    after = netns.snmp()
    tracer.end()

    assert sum(tracer.summary()["lost_by_reason"].values()) > 0
    assert by_ss(netns) == of_snapshot(snapshot)
    assert (4 * COUNT, 4 * COUNT) == tuple(snapshot["drift"]["table"][name] for name in ("ours", "kernel"))
    counters = snapshot["drift"]["counters"]
    assert after["PassiveOpens"] - before["PassiveOpens"] == counters["PassiveOpens"]["ours"]
    assert after["ActiveOpens"] - before["ActiveOpens"] == counters["ActiveOpens"]["ours"]
    assert later.told["port"] in {p["port"] for p in snapshot["top"]["local_ports"]}


def test_polling_shows_the_same_states_and_says_what_it_is(hold, start, netns):
    holder = hold("pairs", COUNT)
    tracer = start("live", "--json", "--refresh", "0.2", "--no-bpf", prefix=netns.command())
    snapshot = next_look(tracer)

    assert "polling" == snapshot["hooks"]["state"]
    assert not snapshot["exact"]
    assert {"LISTEN": 1, "ESTABLISHED": 2 * COUNT} == of_snapshot(snapshot) == by_ss(netns)
    assert [(holder.told["pid"], 2 * COUNT)] == [(p["pid"], p["open"]) for p in snapshot["top"]["processes"]]


def test_another_namespace_is_counted_apart_named_and_read_when_asked_for(start, netns):
    other = Namespace()
    try:
        holder = Holder(other, "pairs", str(COUNT))
        tracer = start("live", "--json", "--refresh", "0.2", "--netns", "all", prefix=netns.command())
        snapshot = next_look(tracer)
        apart = {row["netns"]: row for row in snapshot["namespaces"]}[other.inode]

        assert {} == of_snapshot(snapshot)
        assert (other.name, {"ESTABLISHED": 2 * COUNT}) == (apart["name"], apart["states"])
        assert apart["states"] == apart["kernel"]
        holder.end()
    finally:
        other.delete()


def test_the_ports_in_use_are_counted_by_destination(hold, live, netns):
    netns.sysctl("net.ipv4.ip_local_port_range", "40000 40099")
    netns.sysctl("net.ipv4.ip_local_reserved_ports", "40090-40099")
    tracer = live()
    next_look(tracer)
    holder = hold("pairs", COUNT, 7001)
    snapshot = next_look(tracer)
    ports = snapshot["ports"]

    assert ([40000, 40099], 90, COUNT) == (ports["range"], ports["available"], ports["used"])
    assert [("127.0.0.1", holder.told["port"], COUNT)] == [(d["address"], d["port"], d["used"]) for d in ports["by_destination"]]
    assert ports["usage_ratio"] == pytest.approx(COUNT / 90, abs=1e-4)
    holder.step()
    later = wait_until(lambda: next((p for p in [next_look(tracer)["ports"]] if p["time_wait"]), None), "a look at TIME_WAIT")
    assert (COUNT, COUNT) == (later["used"], later["time_wait"])
    assert [("127.0.0.1", holder.told["port"], COUNT)] == [(d["address"], d["port"], d["used"]) for d in later["by_destination"]]


def test_latencies_are_those_of_the_connections(live, netns):
    tracer = live()
    netns.traffic("late_accept", wait_s=0.31)
    latency = next_look(tracer)["latency"]

    assert (1, 1, 2) == tuple(latency[name]["count"] for name in ("handshake", "accept_wait", "lifetime"))
    assert 300_000 <= latency["accept_wait"]["p50_us"] <= latency["lifetime"]["p99_us"]
    assert 0 < latency["handshake"]["p50_us"] < 300_000


def test_without_privilege_polling_shows_the_states_and_no_foreign_owner(hold, netns):
    hold("pairs", COUNT)
    nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    command = netns.command(*nobody, sys.executable, "-m", "tracer", "live", "--json", "--no-bpf", "--duration", "2")
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    snapshot = json.loads(done.stdout.splitlines()[-1])

    assert {"LISTEN": 1, "ESTABLISHED": 2 * COUNT} == of_snapshot(snapshot)
    assert [] == snapshot["top"]["processes"]
    assert 2 * COUNT == snapshot["totals"]["connections"]


def test_a_namespace_that_goes_away_is_no_longer_listed(start, netns):
    other = Namespace()
    tracer = start("live", "--json", "--refresh", "0.2", "--netns", "all", prefix=netns.command())
    inode = other.inode
    before = next_look(tracer)
    other.delete()
    listed = lambda: {row["netns"] for row in next_look(tracer)["namespaces"]}  # noqa: E731  # a condition to wait for
    wait_until(lambda: inode not in listed(), "the namespace to be left out, at the pace at which namespaces are looked for")

    assert other.name in {row["name"] for row in before["namespaces"] if row["netns"] == inode}
    assert [] == next_look(tracer)["drift"]["problems"]
