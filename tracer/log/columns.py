# SPDX-License-Identifier: Apache-2.0
"""
The columns of a recording: the fields of an event, each with its unit and its meaning.

A list of its own, so that what a file says of itself can be read without pyarrow; a test holds it against EVENT_DTYPE.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LogColumn:
    """A column: its name, as everywhere; its unit, "" for a bare number or name; what it means, absence included."""

    name: str
    unit: str
    meaning: str


LOG_COLUMNS: Sequence[LogColumn] = (
    LogColumn("ts_ns", "ns", "CLOCK_MONOTONIC of the recorded host; wall time is this plus wall_offset_ns"),
    LogColumn("sock", "", "kernel address of the socket: an identity only until CLOSE"),
    LogColumn("cgroup", "", "cgroup v2 id of the owner; 0: not known"),
    LogColumn("bytes_sent", "bytes", "acknowledged by the other end, the SYN of an active open included; 0 but at CLOSE"),
    LogColumn("bytes_received", "bytes", "received from the other end; 0 but at CLOSE"),
    LogColumn("saddr", "", "local address, network order; IPv4 as ::ffff:a.b.c.d"),
    LogColumn("daddr", "", "remote address, network order; IPv4 as ::ffff:a.b.c.d"),
    LogColumn("comm", "", "name of the owner's task, padded with NUL; empty: not known"),
    LogColumn("netns", "", "network namespace, inode number"),
    LogColumn("tgid", "", "process id of the owner; 0: not known"),
    LogColumn("uid", "", "user id of the owner; valid with flag 1"),
    LogColumn(
        "segs_retrans",
        "segments",
        "sent again in the whole life, at CLOSE; with flag 4 the listener's backlog; else 0",
    ),
    LogColumn("srtt_us", "us", "smoothed round-trip time at CLOSE, 0: no sample; with flag 4 the listener's backlog_max"),
    LogColumn("sport", "", "local port; 0: none chosen yet, or never"),
    LogColumn("dport", "", "remote port"),
    LogColumn("error", "errno", "the socket's error; 0: none"),
    LogColumn("kind", "", "1 state, 2 accept, 3 retransmit, 4 reset_sent, 5 reset_received"),
    LogColumn("old_state", "", "TCP state before, include/net/tcp_states.h; 0 where kind is not 1"),
    LogColumn("new_state", "", "TCP state after; 0 where kind is not 1"),
    LogColumn("family", "", "4 or 6; v4-mapped counts as 4"),
    LogColumn(
        "flags",
        "",
        "1: owner known; 2: totals set; 4: an accept with its listener's backlog; 128: owner by descriptor scan",
    ),
)

#: Fields of the record that hold nothing.
NOT_RECORDED = frozenset({"reserved"})
