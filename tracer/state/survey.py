# SPDX-License-Identifier: Apache-2.0
"""What the open connections have in common: who has most of them, on which ports, to where, and how much of the port range they use."""

from typing import Any

import numpy as np
import numpy.typing as npt

from tracer.events.addresses import address_text
from tracer.state.connections import ConnectionArray
from tracer.state.counting import distinct, sums
from tracer.state.outcomes import Direction
from tracer.state.samples import PortRange
from tracer.state.sockets import PidSource
from tracer.state.tuples import mix
from tracer.state.waiting import DESTINATION_DTYPE, PORTS, TimeWait, destination_keys

TOP = 10


def top_lists(connections: ConnectionArray) -> dict[str, list[dict[str, Any]]]:
    """Processes, local ports and remote addresses with the most open connections: *connections* of shape (n,), OPEN_DTYPE."""
    return {
        "processes": top_processes(connections),
        "local_ports": [{"port": int(port), "open": count} for port, count in most_frequent(connections["sport"])],
        "remote_addresses": [{"address": address, "open": count} for address, count in top_addresses(connections["daddr"])],
    }


def most_frequent(values: npt.NDArray[Any], limit: int = TOP) -> list[tuple[Any, int]]:
    """The values that come most often, each with its count; of equals the smaller first."""
    found, _, counts = distinct(values)
    order = np.argsort(-counts, kind="stable")[:limit]
    return [(found[i], int(counts[i])) for i in order]


def top_processes(connections: ConnectionArray) -> list[dict[str, Any]]:
    """Processes by their open connections: *connections* of shape (n,), OPEN_DTYPE, those of unknown owner left out."""
    owned = np.flatnonzero(connections["pid_source"] != PidSource.NONE)
    pids = connections["tgid"][owned]
    listed = []
    for pid, count in most_frequent(pids):
        one = connections[owned[np.argmax(pids == pid)]]
        comm = bytes(one["comm"]).decode(errors="backslashreplace")
        listed.append({"pid": int(pid), "comm": comm, "uid": int(one["uid"]), "open": count})
    return listed


def top_addresses(addresses: npt.NDArray[np.void], limit: int = TOP) -> list[tuple[str, int]]:
    """The addresses, 16 bytes each, that come most often."""
    halves = np.ascontiguousarray(addresses).view("<u8").reshape(-1, 2)
    _, first, counts = distinct(mix(halves))
    order = np.argsort(-counts, kind="stable")[:limit]
    return [(address_text(addresses[first[i]].tobytes()), int(counts[i])) for i in order]


def port_usage(connections: ConnectionArray, ports: PortRange | None, time_wait: TimeWait | None = None) -> dict[str, Any]:
    """
    The ephemeral ports: the range, how many there are and are in use, and the destinations that use most of them.

    A port may be used once for each destination, so the share that matters is that of a destination. TIME_WAIT holds its port too.

    Args:
        connections: shape (n,), OPEN_DTYPE, of the home namespace.
        ports: the range; None where it cannot be read.
        time_wait: what the sockets in TIME_WAIT hold; None where that is not known, and those are missing.
    """
    waiting = time_wait.total if time_wait is not None else None
    if ports is None:
        return {"range": None, "available": None, "used": None, "usage_ratio": None, "time_wait": waiting, "by_destination": []}
    ours = (connections["direction"] != Direction.PASSIVE) & (connections["sport"] >= ports.low) & (connections["sport"] <= ports.high)
    users = np.flatnonzero(ours)
    held = time_wait.held() if time_wait is not None else np.zeros(PORTS, dtype=np.bool_)
    held[connections["sport"][users]] = True
    used = int(np.count_nonzero(held[ports.low : ports.high + 1]))
    return {
        "range": [ports.low, ports.high],
        "available": ports.available,
        "used": used,
        "usage_ratio": ratio(used, ports.available),
        "time_wait": waiting,
        "by_destination": destinations(connections["daddr"][users], connections["dport"][users], time_wait, ports.available),
    }


def destinations(
    addresses: npt.NDArray[np.void], ports: npt.NDArray[np.uint16], time_wait: TimeWait | None, available: int
) -> list[dict[str, Any]]:
    """The destinations that the most local ports are used for, by connections, shape (n,) each, and by those in TIME_WAIT."""
    waiting = time_wait.destinations if time_wait is not None else np.zeros(0, dtype=DESTINATION_DTYPE)
    weights = np.concatenate([np.ones(len(ports), dtype=np.int64), waiting["held"].astype(np.int64)])
    addresses = np.concatenate([addresses, waiting["address"]])
    ports = np.concatenate([ports, waiting["port"]])
    first, counts = sums(destination_keys(addresses, ports), weights)
    order = np.argsort(-counts, kind="stable")[:TOP]
    return [
        {
            "address": address_text(addresses[first[i]].tobytes()),
            "port": int(ports[first[i]]),
            "used": int(counts[i]),
            "usage_ratio": ratio(int(counts[i]), available),
        }
        for i in order
    ]


def ratio(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None
