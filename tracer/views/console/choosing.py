# SPDX-License-Identifier: Apache-2.0
"""
Which connections and events a page shows, and in which order.

A filter is a list of words that must all match: key:value, or a word alone, which is looked for in names, addresses, ports and states.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tracer.errors import UsageError
from tracer.events.addresses import address_text
from tracer.events.filters import in_ranges, is_number, parse_ports
from tracer.events.records import Records, prefix, put, take
from tracer.events.schema import STATE_NAMES
from tracer.state.connections import ENDED_DTYPE, OPEN_DTYPE, ConnectionArray
from tracer.state.outcomes import Direction
from tracer.views.connections import OUTCOMES
from tracer.views.console.controls import CONNECTION_ORDERS, Controls

Mask = npt.NDArray[np.bool_]
#: Whether each of some records, connections or events, matches.
Test = Callable[[Records], Mask]


def parse_filter(text: str) -> Test:
    """
    What a filter asks for.

    Raises:
        UsageError: an unknown key, or a value that it cannot have.
    """
    tests = [_parse_word(word) for word in text.split()]

    def matches(records: Records) -> Mask:
        mask: Mask = np.ones(len(records), dtype=np.bool_)
        for test in tests:
            mask &= test(records)
        return mask

    return matches


def _parse_word(word: str) -> Test:
    key, colon, value = word.partition(":")
    if colon and key in TESTS:
        if not value:
            raise UsageError(f"{key}: needs a value", f"for example {EXAMPLES[key]}")
        return TESTS[key](value)
    if colon and key.isalpha() and len(key) > 4:  # else part of an IPv6 address
        raise UsageError(f"unknown key {key}", "there are: " + " ".join(TESTS))
    return _anything(word)


def _anything(word: str) -> Test:
    """A word alone: part of a name, an address or a state, or a whole port or PID."""
    tests = [_comm(word), _address("saddr")(word), _address("daddr")(word), _state(word)]
    if is_number(word) and 0 < int(word) < 1 << 32:
        tests += [_pid(word), *([_port("sport", "dport")(word)] if int(word) < 65536 else [])]

    def matches(records: Records) -> Mask:
        found: Mask = np.logical_or.reduce([test(records) for test in tests])
        return found

    return matches


def _port(*fields: str) -> Callable[[str], Test]:
    def test(value: str) -> Test:
        ranges = parse_ports(value)
        return lambda records: np.logical_or.reduce([in_ranges(records[field], ranges) for field in fields])

    return test


def _pid(value: str) -> Test:
    if not is_number(value):
        raise UsageError(f"bad PID {value!r}", "give a number: pid:4711")
    return lambda records: records["tgid"] == int(value)


def _comm(value: str) -> Test:
    wanted = value.lower().encode()
    return lambda records: _by_name(records["comm"], wanted)


def _address(*fields: str) -> Callable[[str], Test]:
    def test(value: str) -> Test:
        return lambda records: np.logical_or.reduce([_by_address(records[field], value) for field in fields])

    return test


def _by_name(column: npt.NDArray[np.bytes_], part: bytes) -> Mask:
    names, index = np.unique(column, return_inverse=True)
    return np.array([part in name.lower() for name in names.tolist()], dtype=np.bool_)[index]


def _by_address(column: npt.NDArray[np.void], part: str) -> Mask:
    packed = np.ascontiguousarray(column).tobytes()
    known: dict[bytes, bool] = {}
    rows = [packed[i : i + 16] for i in range(0, len(packed), 16)]
    for row in set(rows):
        known[row] = part in address_text(row)
    return np.array([known[row] for row in rows], dtype=np.bool_)


def _state(value: str) -> Test:
    wanted = [number for number, name in enumerate(STATE_NAMES) if value.upper() in name and number]
    return lambda records: np.isin(records["state" if "state" in (records.dtype.names or ()) else "new_state"], wanted)


def _outcome(value: str) -> Test:
    wanted = [number for number, name in enumerate(OUTCOMES) if value.lower() in name]
    if not wanted:
        raise UsageError(f"unknown outcome {value!r}", "there are: " + " ".join(OUTCOMES))
    return lambda records: np.isin(records["outcome"], wanted) if "outcome" in (records.dtype.names or ()) else _none(records)


def _direction(value: str) -> Test:
    found = [direction for direction in Direction if direction.name.lower().startswith(value.lower())]
    if not found:
        raise UsageError(f"unknown direction {value!r}", "there are: active passive unknown")
    return lambda records: records["direction"] == found[0] if "direction" in (records.dtype.names or ()) else _none(records)


def _none(records: Records) -> Mask:
    return np.zeros(len(records), dtype=np.bool_)


TESTS: Mapping[str, Callable[[str], Test]] = {
    "port": _port("sport", "dport"),
    "sport": _port("sport"),
    "dport": _port("dport"),
    "pid": _pid,
    "comm": _comm,
    "addr": _address("saddr", "daddr"),
    "saddr": _address("saddr"),
    "daddr": _address("daddr"),
    "state": _state,
    "outcome": _outcome,
    "dir": _direction,
}
EXAMPLES: Mapping[str, str] = {
    "port": "port:443",
    "sport": "sport:8000-8099",
    "dport": "dport:80,443",
    "pid": "pid:4711",
    "comm": "comm:nginx",
    "addr": "addr:10.0.",
    "saddr": "saddr:127.0.0.1",
    "daddr": "daddr:2001:db8:",
    "state": "state:CLOSE_WAIT",
    "outcome": "outcome:refused",
    "dir": "dir:passive",
}


@dataclass(frozen=True, slots=True)
class Chosen:
    """The connections of a page, shape (rows,), ENDED_DTYPE, and how many match the filter of how many there are."""

    connections: ConnectionArray
    matching: int
    existing: int


def choose(connections: ConnectionArray, test: Test, controls: Controls, rows: int, now_ns: int) -> Chosen:
    """
    The part of the connections that a page shows.

    Args:
        connections: shape (n,), OPEN_DTYPE or ENDED_DTYPE; open ones are given *now_ns* as their end, so that they have a duration.
        test: which of them match.
        controls: tell the order, and how many are left out before those shown.
        rows: how many fit.
        now_ns: CLOCK_MONOTONIC.
    """
    matching = np.flatnonzero(test(connections))
    order = ordered(take(connections, matching), CONNECTION_ORDERS[controls.order])
    if controls.reverse:
        order = order[::-1]
    first = min(controls.scroll, max(len(order) - rows, 0))
    shown = take(connections, matching[order[first : first + rows]])
    return Chosen(_with_end(shown, now_ns), len(matching), len(connections))


def _with_end(connections: ConnectionArray, now_ns: int) -> ConnectionArray:
    if connections.dtype == ENDED_DTYPE:
        return connections
    ended = np.zeros(len(connections), dtype=ENDED_DTYPE)
    put(prefix(ended, OPEN_DTYPE), slice(None), connections)
    ended["closed_ns"] = now_ns
    return ended


def ordered(connections: ConnectionArray, order: str) -> npt.NDArray[np.intp]:
    """The indices of the connections in an order of CONNECTION_ORDERS: shape (n,)."""
    ended = connections.dtype == ENDED_DTYPE
    age = -connections["closed_ns"].astype(np.int64) if ended else connections["opened_ns"].astype(np.int64)
    keys: Mapping[str, Sequence[npt.NDArray[np.generic]]] = {
        "age": (age,),
        "pid": (age, connections["tgid"]),
        "comm": (age, connections["tgid"], connections["comm"]),
        "state": (age, connections["outcome" if ended else "state"]),
        "local": (age, connections["sport"]),
        "remote": (connections["dport"], *_halves(connections["daddr"])),
        "retransmits": (age, -connections["retransmits"].astype(np.int64)),
    }
    return np.lexsort(keys[order])


def _halves(column: npt.NDArray[np.void]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    halves = np.ascontiguousarray(column).view(">u8").reshape(-1, 2)
    return halves[:, 1].astype(np.uint64), halves[:, 0].astype(np.uint64)
