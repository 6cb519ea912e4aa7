#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""
What folding events into connections costs, without a kernel: made events, from arrays like the ring's.

Tells nanoseconds per event with 100 and with 200,000 open connections in the table, and bytes of memory per open connection.

Example: .venv/bin/python scripts/bench/fold.py
"""

import argparse
import statistics
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tracer.events.batch import EventBatch
from tracer.events.schema import EVENT_DTYPE, Flag, Kind, State
from tracer.kernel.capture import BATCH_LIMIT
from tracer.kernel.ring import SLOT_DTYPE
from tracer.state.connections import ConnectionTable

LIFE = (
    (0, Kind.STATE, State.CLOSE, State.SYN_SENT, Flag.HAS_OWNER),
    (0, Kind.STATE, State.SYN_SENT, State.ESTABLISHED, 0),
    (1, Kind.STATE, State.LISTEN, State.SYN_RECV, 0),
    (1, Kind.STATE, State.SYN_RECV, State.ESTABLISHED, 0),
    (1, Kind.ACCEPT, 0, 0, Flag.HAS_OWNER),
    (0, Kind.STATE, State.ESTABLISHED, State.FIN_WAIT1, Flag.HAS_OWNER),
    (1, Kind.STATE, State.ESTABLISHED, State.CLOSE_WAIT, 0),
    (0, Kind.STATE, State.FIN_WAIT1, State.FIN_WAIT2, 0),
    (1, Kind.STATE, State.CLOSE_WAIT, State.LAST_ACK, Flag.HAS_OWNER),
    (0, Kind.STATE, State.FIN_WAIT2, State.CLOSE, 0),
    (1, Kind.STATE, State.LAST_ACK, State.CLOSE, 0),
)
OPENING = 5  # the first events of a life, after which it is open at both ends


def make_lives(count: int, first_sock: int, overlap: int) -> np.ndarray:
    """Events of *count* connections of which *overlap* run at the same time; shape (11 * count,), strided like the ring's."""
    slots = np.zeros(count * len(LIFE), dtype=SLOT_DTYPE)
    events = slots["event"]
    number = np.arange(count)
    rows = (number // overlap * overlap * len(LIFE) + number % overlap)[:, None] + np.arange(len(LIFE)) * np.minimum(
        overlap, count - number // overlap * overlap
    )[:, None]
    for step, (end, kind, old, new, flags) in enumerate(LIFE):
        chosen = rows[:, step]
        events["sock"][chosen] = first_sock + (number % 50_000) * 4096 + end * 2048
        events["kind"][chosen], events["old_state"][chosen], events["new_state"][chosen] = kind, old, new
        events["flags"][chosen] = flags
        events["sport"][chosen] = 20_000 + number % 40_000 if end == 0 else 80
        events["dport"][chosen] = 80 if end == 0 else 20_000 + number % 40_000
    events["ts_ns"] = np.arange(len(events)) * 1000 + 1
    events["family"], events["tgid"], events["comm"] = 4, 4711, b"bench"
    return events


def batches(events: np.ndarray, size: int) -> list[EventBatch]:
    return [EventBatch(events[i : i + size], int(events["ts_ns"][i]), 0) for i in range(0, len(events), size)]


def open_connections(table: ConnectionTable, count: int) -> None:
    """Fills the table with so many ends that stay open."""
    events = make_lives(count // 2, 1 << 40, 1)
    for i in range(0, count // 2, 50_000):
        part = events[i * len(LIFE) : (i + 50_000) * len(LIFE)].copy()
        part["sock"] += np.uint64(i << 20)
        opening = part.reshape(-1, len(LIFE))[:, :OPENING].reshape(-1)
        table.fold(EventBatch(opening, 1, 0))


def nanoseconds_per_event(table: ConnectionTable, work: list[EventBatch]) -> float:
    start = time.process_time_ns()
    for batch in work:
        table.fold(batch)
    return (time.process_time_ns() - start) / sum(map(len, work))


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[1]).parse_args()
    assert EVENT_DTYPE.itemsize == 120
    for overlap, label in ((1, "one connection at a time"), (1000, "1,000 at a time")):
        work = batches(make_lives(100_000, 1 << 50, overlap), BATCH_LIMIT)
        few, many = ConnectionTable(), ConnectionTable()
        open_connections(few, 100)
        tracemalloc.start()
        open_connections(many, 200_000)
        used, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        rounds = [(nanoseconds_per_event(few, work), nanoseconds_per_event(many, work)) for _ in range(5)]
        ratio = statistics.median(m / f for f, m in rounds)
        print(
            f"{label}: {statistics.median(f for f, _ in rounds):.0f} ns per event with {len(few)} open, "
            f"{statistics.median(m for _, m in rounds):.0f} with {len(many)} open (x {ratio:.2f}); "
            f"{used / len(many):.0f} bytes per open connection"
        )


if __name__ == "__main__":
    main()
