# SPDX-License-Identifier: Apache-2.0
"""
The kernel's own tables of sockets, as text: /proc/net/tcp, /proc/net/tcp6, /proc/net/sockstat.

Source: net/ipv4/tcp_ipv4.c, get_tcp4_sock and get_timewait4_sock; net/ipv4/proc.c, sockstat_seq_show.
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tracer.events.schema import State

PROC_NET = Path("/proc/net")

#: Timer of a mini-socket (TIME_WAIT, or the FIN_WAIT2 of an orphan): the full socket behind it has closed already.
MINI_SOCKET_TIMER = "03"


def count_states(lines: Iterable[str]) -> Counter[int]:
    """
    Full sockets by state, from the lines of a tcp table, its heading included.

    Left out, because no event of a full socket stands behind them: mini-sockets, and half-open requests, which the table shows as
    SYN_RECV (the full socket of a passive open is in that state for microseconds only).
    """
    counts: Counter[int] = Counter()
    for line in lines:
        fields = line.split()
        if len(fields) < 6 or fields[0] == "sl":
            continue
        state = int(fields[3], 16)
        if not fields[5].startswith(MINI_SOCKET_TIMER) and state != State.SYN_RECV:
            counts[state] += 1
    return counts


def read_states(folder: Path = PROC_NET) -> Counter[int]:
    """Full sockets by state in this network namespace, both families; a host without IPv6 has no second table."""
    counts: Counter[int] = Counter()
    for name in ("tcp", "tcp6"):
        try:
            with (folder / name).open() as file:
                counts += count_states(file)
        except OSError:
            continue
    return counts


def parse_sockstat(text: str) -> dict[str, dict[str, int]]:
    """Protocol -> key -> value, from lines such as "TCP: inuse 5 orphan 0 tw 2 alloc 7 mem 1"."""
    table = {}
    for line in text.splitlines():
        protocol, _, rest = line.partition(":")
        words = rest.split()
        table[protocol] = {key: int(value) for key, value in zip(words[::2], words[1::2], strict=False) if value.isdecimal()}
    return table


def read_time_wait(folder: Path = PROC_NET) -> int | None:
    """Mini-sockets in this network namespace, by sockstat; None where it cannot be read."""
    try:
        text = (folder / "sockstat").read_text()
    except OSError:
        return None
    return parse_sockstat(text).get("TCP", {}).get("tw")
