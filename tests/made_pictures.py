# SPDX-License-Identifier: Apache-2.0
"""Made pictures of a busy web server's console: for the tests of the screens and for the screenshots of the README."""

import math
from dataclasses import replace

import numpy as np

from tracer.events.schema import EVENT_DTYPE, Flag, Kind, State
from tracer.reconcile.cgroups import CgroupPaths
from tracer.state.connections import ENDED_DTYPE
from tracer.state.outcomes import Direction
from tracer.state.recent import Failure
from tracer.state.snapshot import Drift, SelfUse, Snapshot
from tracer.state.sockets import CONTEXT_DTYPE, PidSource
from tracer.views.columns import Rows
from tracer.views.connections import ConnectionRows
from tracer.views.console.controls import PAGES, Controls
from tracer.views.console.picture import Picture

NS = 1_000_000_000
#: 2026-01-01, so that times of day are the same wherever UTC is.
WALL_OFFSET_NS = 1_767_225_600 * NS
NOW_NS = 3723 * NS
RATES = ("events", "opened", "accepted", "established", "closed", "failed")


def wave(size, phase=0.0, seconds=180):
    """A rate that rises and falls, the same every time."""
    return [round(size * (1 + 0.5 * math.sin(phase + i / 9) + 0.3 * math.sin(i / 2.3))) for i in range(seconds)]


def drift(total=0):
    return Drift(total, "", "", "sock_diag", 5.0, 0.004, 0.4, {}, {}, None, None, 0, [])


def snapshot(**changes):
    history = {name: wave(120) for name in RATES} | {
        "accepted": wave(90, 0.3),
        "closed": wave(200, 0.6),
        "failed": [3 if i % 37 in (0, 1) else 0 for i in range(180)],
    }
    fields = {
        "time": "2026-01-01T01:02:03Z",
        "host": "web1",
        "kernel": "6.12.43",
        "hooks": {"state": "raw_tracepoint", "accept": "fexit"},
        "uptime_s": 3723.0,
        "states": {
            "LISTEN": 14,
            "SYN_SENT": 3,
            "SYN_RECV": 0,
            "ESTABLISHED": 1_847,
            "FIN_WAIT1": 2,
            "FIN_WAIT2": 118,
            "CLOSE_WAIT": 412,
            "LAST_ACK": 0,
            "CLOSING": 0,
            "TIME_WAIT": 6_210,
        },
        "mini_sockets": {"TIME_WAIT": 6_210},
        "exact": True,
        "rates": {name: values[-1] for name, values in history.items()},
        "history": history,
        "totals": {"events": 4_731_905},
        "retransmits": {"total": 41, "per_second": 0},
        "resets": {},
        "ports": {
            "range": [32768, 60999],
            "available": 28_232,
            "used": 21_455,
            "usage_ratio": 0.76,
            "time_wait": 20_340,
            "by_destination": [
                {"address": "10.0.3.17", "port": 5432, "used": 20_611, "usage_ratio": 0.7301},
                {"address": "10.0.3.20", "port": 6379, "used": 812, "usage_ratio": 0.0288},
                {"address": "2001:db8:4:1::8", "port": 443, "used": 32, "usage_ratio": 0.0011},
            ],
        },
        "top": {},
        "latency": {
            "handshake": {"count": 7_012, "p50_us": 412.0, "p90_us": 1_830.0, "p99_us": 204_000.0},
            "accept_wait": {"count": 5_301, "p50_us": 18.0, "p90_us": 95.0, "p99_us": 1_420.0},
            "lifetime": {"count": 12_204, "p50_us": 24_300.0, "p90_us": 310_000.0, "p99_us": 61_000_000.0},
        },
        "namespaces": [],
        "sockstat": {},
        "drift": drift(),
        "lost": {},
        "patterns": [],
        "alerts": [],
        "use": SelfUse(0.013, 58_000_000, 0.02),
    }
    return Snapshot(**fields | changes)


TOP = {
    "processes": [("nginx[812]", 1_204), ("php-fpm[990]", 611), ("postgres[702]", 220), ("redis-server[640]", 97), ("curl[31802]", 2)],
    "local_ports": [("443", 1_190), ("80", 64), ("9000", 31), ("22", 2)],
    "remote_addresses": [("10.0.3.17", 611), ("203.0.113.9", 87), ("198.51.100.23", 44), ("2001:db8:4:1::8", 32)],
}
FAILURES = (
    Failure(NOW_NS - 2 * NS, "php-fpm", 990, "10.0.3.17", 5432, "timeout", 12),
    Failure(NOW_NS - 31 * NS, "curl", 31_802, "203.0.113.80", 8443, "refused"),
    Failure(NOW_NS - 95 * NS, "php-fpm", 990, "10.0.3.17", 5432, "no_ports", 3),
    Failure(NOW_NS - 240 * NS, "", 0, "2001:db8:4:1::8", 443, "reset_received"),
)


def connections(count=7):
    """Ends of nginx, one of which is someone's who picked a dangerous name."""
    made = np.zeros(count, dtype=ENDED_DTYPE)
    number = np.arange(count)
    made["opened_ns"], made["closed_ns"] = NOW_NS - number * 7 * NS - NS, NOW_NS
    made["established_ns"], made["accepted_ns"] = made["opened_ns"] + 300_000, made["opened_ns"] + 400_000
    made["tgid"], made["comm"], made["pid_source"] = 812, b"nginx", PidSource.ACCEPT
    made["comm"][2:3] = b"\x1b[31m[red]"
    made["sport"], made["dport"], made["direction"], made["family"] = 443, 50_000 + number * 7, Direction.PASSIVE, 4
    made["state"] = np.where(number % 3 == 2, State.CLOSE_WAIT, State.ESTABLISHED)
    made["saddr"] = np.frombuffer(b"\0" * 10 + b"\xff\xff" + bytes([10, 0, 3, 1]), dtype="V16")[0]
    made["daddr"] = np.frombuffer(b"\0" * 10 + b"\xff\xff" + bytes([203, 0, 113, 9]), dtype="V16")[0]
    return ConnectionRows(made, WALL_OFFSET_NS, CgroupPaths(mounts=()))


def events():
    made = np.zeros(4, dtype=EVENT_DTYPE)
    made["ts_ns"], made["sock"], made["kind"] = NOW_NS + np.arange(4) * 1_000_000, 0xFFFF8880, [Kind.STATE, Kind.STATE, Kind.ACCEPT, 1]
    made["old_state"], made["new_state"] = [State.LISTEN, State.SYN_RECV, 0, 1], [State.SYN_RECV, State.ESTABLISHED, 0, State.CLOSE_WAIT]
    made["sport"], made["dport"], made["family"], made["flags"] = 443, 50_007, 4, [0, 0, Flag.HAS_OWNER, 0]
    made["saddr"], made["daddr"] = connections(1).connections["saddr"][0], connections(1).connections["daddr"][0]
    context = np.zeros(4, dtype=CONTEXT_DTYPE)
    context["tgid"], context["comm"], context["pid_source"] = [0, 0, 812, 812], [b"", b"", b"nginx", b"nginx"], [0, 0, 2, 3]
    context["in_state_ns"] = [-1, 21_000, -1, 1_900_000]
    return Rows(made, context, WALL_OFFSET_NS)


def picture(page="overview", controls=None, **changes):
    """A picture of one of PAGES."""
    chosen = replace(controls or Controls(), page=PAGES.index(page))
    state = changes.pop("snapshot", None) or snapshot()
    rows = connections()
    fields = {
        "courses": {name: [round((count or 0) * (0.6 + 0.4 * i / 59)) for i in range(60)] for name, count in state.states.items()},
        "top": dict.fromkeys(("open", "rate", "failed"), TOP),
        "failures": FAILURES,
        "connections": rows,
        "matching": len(rows),
        "existing": len(rows),
        "events": events(),
        "now_ns": NOW_NS,
    }
    return Picture(snapshot=state, controls=chosen, **fields | changes)
