# SPDX-License-Identifier: Apache-2.0
"""
The rule-book: every known difference between what tcptrace counts and what the kernel shows, with its reason and source.

Whatever drift is left when these are taken off is an error: of ours, or of a kernel that we do not know. tests/kernel/test_rules.py has a
test for each.
"""

from tracer.events.schema import State
from tracer.state.drift import CounterRule, KnownDifference, Noted
from tracer.state.samples import Reading

S = State

REQUESTS = KnownDifference(
    "half-open requests",
    lambda _, dump: {S.SYN_RECV: dump.requests},
    "a connection that waits for the last packet of its handshake is a request, no full socket: no event tells of it, but /proc/net/tcp"
    " and sock_diag show it as SYN_RECV",
    "net/ipv4/tcp_ipv4.c, get_openreq4; net/ipv4/inet_diag.c, inet_req_diag_fill",
)
ORPHANS = KnownDifference(
    "orphans in FIN_WAIT2",
    lambda _, dump: {S.FIN_WAIT2: dump.minis},
    "a socket in FIN_WAIT2 that no process holds is replaced by a mini-socket: its event says CLOSE, the kernel still shows FIN_WAIT2",
    "net/ipv4/tcp.c, __tcp_close; net/ipv4/tcp_minisocks.c, tcp_time_wait",
)
TIME_WAIT = KnownDifference(
    "TIME_WAIT",
    lambda sample, dump: {S.TIME_WAIT: None if (minis := sample.mini_sockets()) is None else max(minis - dump.minis, 0)},
    "TIME_WAIT is a mini-socket from its beginning: its event says CLOSE; sockstat's tw counts it together with orphans in FIN_WAIT2",
    "net/ipv4/tcp_minisocks.c, tcp_time_wait; net/ipv4/proc.c, sockstat_seq_show",
)

KNOWN_DIFFERENCES = (REQUESTS, ORPHANS, TIME_WAIT)


def moved(reading: Reading, old: State, new: State) -> int:
    return int(reading.transitions[old, new])


def active_opens(reading: Reading, noted: Noted) -> int:
    return moved(reading, S.CLOSE, S.SYN_SENT) - noted.no_ports


def passive_opens(reading: Reading, _: Noted) -> int:
    return moved(reading, S.LISTEN, S.SYN_RECV)


def attempts_failed(_: Reading, noted: Noted) -> int:
    return noted.failed


def established_resets(reading: Reading, _: Noted) -> int:
    return moved(reading, S.ESTABLISHED, S.CLOSE) + moved(reading, S.CLOSE_WAIT, S.CLOSE)


COUNTER_RULES = (
    CounterRule(
        "ActiveOpens",
        active_opens,
        "counted when the SYN is sent: a connect that finds no local port is in SYN_SENT for a moment, but sends none; attempts count, not"
        " successes",
        "net/ipv4/tcp_output.c, tcp_connect; net/ipv4/tcp_ipv4.c, tcp_v4_connect",
        by_events=True,
    ),
    CounterRule(
        "PassiveOpens",
        passive_opens,
        "counted when the socket of the child is made, whether or not it is ever accepted",
        "net/ipv4/tcp_minisocks.c, tcp_create_openreq_child",
    ),
    CounterRule(
        "AttemptFails",
        attempts_failed,
        "counted when SYN_SENT or SYN_RECV ends by an error, not when the process itself gives up; and when a half-open request is reset,"
        " of which no event tells",
        "net/ipv4/tcp.c, tcp_done; net/ipv4/tcp_minisocks.c, tcp_check_req",
        may_exceed=True,
        by_events=True,
    ),
    CounterRule(
        "EstabResets",
        established_resets,
        "counted when ESTABLISHED or CLOSE_WAIT goes straight to CLOSE: a reset received or sent, an abort, a listener closed with"
        " connections in its queue",
        "net/ipv4/tcp.c, tcp_set_state",
    ),
    CounterRule(
        "RetransSegs",
        lambda reading, _: reading.retransmits,
        "counts segments, of which one retransmission may send several, and the SYN-ACKs that half-open requests send again",
        "net/ipv4/tcp_output.c, __tcp_retransmit_skb and tcp_rtx_synack",
        may_exceed=True,
    ),
    CounterRule(
        "OutRsts",
        lambda reading, _: reading.resets_sent,
        "counts resets for packets that belong to no socket too, such as a SYN to a port where nobody listens",
        "net/ipv4/tcp_ipv4.c, tcp_v4_send_reset; net/ipv4/tcp_output.c, tcp_send_active_reset",
        may_exceed=True,
    ),
    *(
        CounterRule(name, None, reason, source)
        for name, reason, source in (
            ("ListenOverflows", "a full accept queue; no socket changes its state", "net/ipv4/tcp_input.c, tcp_conn_request"),
            ("ListenDrops", "likewise, and for other reasons", "net/ipv4/tcp_ipv4.c, tcp_v4_syn_recv_sock"),
            ("TCPTimeWaitOverflow", "a TIME_WAIT for which there was no room", "net/ipv4/tcp_minisocks.c, tcp_time_wait"),
            ("SyncookiesSent", "a full SYN queue; no socket changes its state", "net/ipv4/syncookies.c"),
            ("SyncookiesRecv", "likewise", "net/ipv4/syncookies.c"),
            ("SyncookiesFailed", "likewise", "net/ipv4/syncookies.c"),
            ("TCPReqQFullDoCookies", "likewise", "net/ipv4/tcp_input.c, tcp_syn_flood_action"),
            ("TCPReqQFullDrop", "likewise, without cookies", "net/ipv4/tcp_input.c, tcp_syn_flood_action"),
        )
    ),
)
