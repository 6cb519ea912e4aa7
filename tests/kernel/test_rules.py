# SPDX-License-Identifier: Apache-2.0
"""One test for each rule of tracer/reconcile/rules.py: the difference is there, and taken off there is no drift."""

import socket
from pathlib import Path

import pytest

from tests.kernel.conftest import wait_until
from tests.kernel.test_truth import COUNT, by_ss, drifting, hold, live, next_look, of_snapshot
from tracer.reconcile.rules import COUNTER_RULES, KNOWN_DIFFERENCES

__all__ = ["hold", "live"]

IPPROTO_MPTCP = 262  # include/uapi/linux/in.h


def test_every_rule_says_why_and_where_that_stands():
    for rule in (*COUNTER_RULES, *KNOWN_DIFFERENCES):
        assert rule.reason
        assert "net/ipv4/" in rule.source


@pytest.fixture
def stranger(netns):
    """An address behind a link that swallows everything: a host that never answers."""
    for step in (
        "link add up0 type veth peer name down0",
        "addr add 10.98.0.1/24 dev up0",
        "link set up0 up",
        "link set down0 up",
        "neigh add 10.98.0.77 lladdr 02:00:00:00:00:01 dev up0 nud permanent",
    ):
        netns.run("ip", *step.split())
    return "10.98.0.77"


def test_a_half_open_request_is_shown_as_syn_recv_and_is_no_full_socket(live, netns, hold, stranger):
    tracer = live()
    next_look(tracer)
    hold("requests", COUNT, "10.98.0.1", stranger)
    wait_until(lambda: by_ss(netns).get("SYN_RECV") == COUNT, "half-open requests")
    snapshot = next_look(tracer)

    assert (COUNT, COUNT) == (snapshot["states"]["SYN_RECV"], snapshot["mini_sockets"]["SYN_RECV"])
    assert 0 == snapshot["drift"]["states"]["SYN_RECV"]["ours"]
    assert {} == drifting(snapshot)


def orphans_by_ss(namespace) -> int:
    """Mini-sockets in FIN_WAIT2, which alone have the timer of TIME_WAIT.

    An orphan whose FIN is acknowledged just when close() lets go of the socket stays a full one (tcp_rcv_state_process,
    net/ipv4/tcp_input.c: sock_owned_by_user), so there may be fewer of them than were made.
    """
    lines = namespace.run("ss", "-tanoH", "state", "fin-wait-2").splitlines()
    return sum("timer:(timewait" in line for line in lines)


def test_an_orphan_in_fin_wait2_is_a_mini_socket_and_a_socket_that_is_held_is_none(live, netns, hold):
    tracer = live()
    next_look(tracer)
    hold("orphans", COUNT)
    hold("half_closed", 7)
    wait_until(lambda: by_ss(netns).get("FIN_WAIT2") == COUNT + 7, "FIN_WAIT2")
    snapshot = next_look(tracer)
    orphans = orphans_by_ss(netns)
    held = COUNT + 7 - orphans

    assert 7 <= held < COUNT
    assert (COUNT + 7, orphans) == (snapshot["states"]["FIN_WAIT2"], snapshot["mini_sockets"]["FIN_WAIT2"])
    assert (held, held) == tuple(snapshot["drift"]["states"]["FIN_WAIT2"][side] for side in ("ours", "kernel"))
    assert by_ss(netns) == of_snapshot(snapshot)
    assert {} == drifting(snapshot)


def test_time_wait_is_what_sockstat_has_less_the_orphans(live, netns, hold):
    netns.sysctl("net.ipv4.tcp_tw_reuse", "0")
    tracer = live()
    next_look(tracer)
    hold("orphans", 5)
    netns.traffic("pairs", count=COUNT)
    snapshot = next_look(tracer)

    orphans = orphans_by_ss(netns)
    assert 0 < orphans
    assert (COUNT, COUNT + orphans) == (snapshot["states"]["TIME_WAIT"], snapshot["sockstat"]["TCP"]["tw"])
    assert by_ss(netns) == of_snapshot(snapshot)


def test_sockstat_counts_hashed_sockets_so_bound_ones_are_not_among_them(live, netns, hold):
    hold("bound", COUNT)
    hold("pairs", 3)
    snapshot = next_look(live())

    assert {"ours": 7, "kernel": 7, "drift": 0} == snapshot["drift"]["sockets"]
    assert 7 == snapshot["sockstat"]["TCP"]["inuse"]


def test_a_mapped_socket_is_in_sockstat6_and_in_the_table_as_ipv4(live, netns, hold):
    hold("mapped", COUNT)
    snapshot = next_look(live())

    assert (COUNT, COUNT + 1) == tuple(snapshot["sockstat"][family]["inuse"] for family in ("TCP", "TCP6"))
    assert [{"address": "127.0.0.1", "open": 2 * COUNT}] == snapshot["top"]["remote_addresses"]
    assert {} == drifting(snapshot)


def grown(tracer, netns, name, traffic):
    """How far a counter of the kernel grew, and the row of the snapshot after it."""
    next_look(tracer)
    before = netns.snmp()[name]
    result = traffic()
    snapshot = next_look(tracer)
    assert {} == drifting(snapshot)
    return netns.snmp()[name] - before, snapshot["drift"]["counters"][name], result


def test_active_opens_counts_attempts_but_none_without_a_port(live, netns):
    netns.sysctl("net.ipv4.ip_local_port_range", "40000 40003")
    kernel, row, _ = grown(live(), netns, "ActiveOpens", lambda: netns.traffic("no_ports", ports=4))

    assert (4, 4, 4) == (kernel, row["ours"], row["kernel"])


def test_passive_opens_counts_connections_that_nobody_accepts(live, netns, hold):
    kernel, row, _ = grown(live(), netns, "PassiveOpens", lambda: hold("unaccepted", COUNT))

    assert (COUNT, COUNT, COUNT) == (kernel, row["ours"], row["kernel"])


def test_attempt_fails_counts_refusals_but_not_what_was_given_up(live, netns):
    def traffic():
        netns.traffic("refused", count=COUNT)
        netns.traffic("cancelled")

    kernel, row, _ = grown(live(), netns, "AttemptFails", traffic)

    assert (COUNT, COUNT, COUNT) == (kernel, row["ours"], row["kernel"])


def test_estab_resets_counts_both_ends_of_a_reset(live, netns):
    kernel, row, _ = grown(live(), netns, "EstabResets", lambda: netns.traffic("reset", count=COUNT))

    assert (2 * COUNT, 2 * COUNT, 2 * COUNT) == (kernel, row["ours"], row["kernel"])


def test_curr_estab_counts_close_wait_too(live, netns, hold):
    tracer = live()
    next_look(tracer)
    hold("orphans", COUNT)
    hold("pairs", 3)
    snapshot = next_look(tracer)
    row = snapshot["drift"]["counters"]["CurrEstab"]

    assert netns.snmp()["CurrEstab"] == row["ours"] == row["kernel"] == COUNT + 6


def test_retrans_segs_counts_what_is_sent_again(live, netns):
    kernel, row, _ = grown(live(), netns, "RetransSegs", lambda: netns.traffic("timeout"))

    assert 0 < row["ours"] == row["kernel"] == kernel


def test_retrans_segs_counts_syn_acks_of_requests_too_so_it_may_exceed_ours(live, netns, hold, stranger):
    def traffic():
        before = netns.snmp()["RetransSegs"]
        hold("requests", COUNT, "10.98.0.1", stranger)
        wait_until(lambda: netns.snmp()["RetransSegs"] >= before + COUNT, "SYN-ACKs to be sent again")

    kernel, row, _ = grown(live(), netns, "RetransSegs", traffic)

    assert (0, 0) == (row["ours"], row["drift"])
    assert COUNT <= row["kernel"] <= kernel


def test_out_rsts_counts_resets_of_no_socket_too(live, netns):
    def traffic():
        netns.traffic("reset", count=COUNT)
        netns.traffic("refused", count=7)

    kernel, row, _ = grown(live(), netns, "OutRsts", traffic)

    assert (COUNT + 7, COUNT, COUNT + 7) == (kernel, row["ours"], row["kernel"])


def test_what_no_event_tells_of_is_shown_as_the_kernel_counts_it(live, netns, hold):
    tracer = live()
    next_look(tracer)
    hold("unanswered", 3)
    snapshot = next_look(tracer)
    row = snapshot["drift"]["counters"]["ListenOverflows"]

    assert row["kernel"] >= 3
    assert (None, None) == (row["ours"], row["drift"])
    assert 3 == snapshot["states"]["SYN_SENT"] == by_ss(netns)["SYN_SENT"]
    assert {} == drifting(snapshot)


def test_subflows_of_mptcp_are_tcp_sockets_like_any_other(live, netns, hold):
    if not Path("/proc/sys/net/mptcp").exists():  # as in Debian's 5.10
        with pytest.raises(OSError, match="not supported"):
            socket.socket(proto=IPPROTO_MPTCP)
        return
    netns.sysctl("net.mptcp.enabled", "1")
    tracer = live()
    hold("multipath", COUNT)
    snapshot = next_look(tracer, looks=2)

    assert {"LISTEN": 1, "ESTABLISHED": 2 * COUNT} == of_snapshot(snapshot)
    assert snapshot["totals"]["other_protocols"] > 0
    assert {} == drifting(snapshot)


def test_data_in_a_syn_makes_no_drift(live, netns):
    netns.sysctl("net.ipv4.tcp_fastopen", "3")
    tracer = live()
    next_look(tracer)
    netns.traffic("fast_open", size=701)
    snapshot = next_look(tracer)

    assert (2, 2) == tuple(snapshot["drift"]["counters"][name]["kernel"] for name in ("ActiveOpens", "PassiveOpens"))
    assert {} == drifting(snapshot)


def test_a_simultaneous_open_makes_no_drift(live, netns):
    tracer = live()
    next_look(tracer)
    netns.traffic("self_connect", port=45_678)
    snapshot = next_look(tracer)

    assert (1, 0) == tuple(snapshot["drift"]["counters"][name]["kernel"] for name in ("ActiveOpens", "PassiveOpens"))
    assert {} == drifting(snapshot)


def test_listeners_that_share_a_port_are_counted_each(live, netns, hold):
    tracer = live()
    next_look(tracer)
    hold("reuseport", 3)
    snapshot = next_look(tracer)

    assert {"LISTEN": 3} == of_snapshot(snapshot) == by_ss(netns)
    assert {} == drifting(snapshot)
