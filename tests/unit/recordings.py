# SPDX-License-Identifier: Apache-2.0
"""Made recordings for the tests: events of distinct values, in batches of different sizes, with losses and samples between them."""

import io

import numpy as np

from tracer.events.batch import EventBatch
from tracer.events.schema import EVENT_DTYPE, Kind
from tracer.log.entries import FORMAT, RunInfo, Sample
from tracer.log.reader import LogReader
from tracer.log.writer import LogWriter

NS = 1_000_000_000
BEGAN_NS = 1_000 * NS
WALL_NS = 1_790_000_000 * NS


def make_events(count, first=0, ts_ns=BEGAN_NS):
    """Shape (count,), EVENT_DTYPE: every field of every event differs from its neighbour's."""
    number = np.arange(first, first + count)
    events = np.zeros(count, dtype=EVENT_DTYPE)
    for place, name in enumerate(EVENT_DTYPE.names):
        dtype = EVENT_DTYPE[name]
        if dtype.kind == "u":
            events[name] = (number * (place + 3) + place) % min(np.iinfo(dtype).max, 1 << 62)
        else:
            texts = [f"{name}{n % 50_000}".encode().ljust(16, b"\0")[:16] for n in number.tolist()]
            events[name] = np.array(texts, dtype="S16").view(dtype) if dtype.kind == "V" else np.array(texts, dtype="S16")
    events["ts_ns"] = ts_ns + number
    events["kind"] = number % 5 + Kind.STATE
    events["reserved"] = 0
    return events


def make_info(**changes):
    values = {
        "format": FORMAT,
        "version": "0.1.0",
        "host": "alpha",
        "kernel": "6.18.0-test",
        "boot_id": "b-1",
        "started_ns": BEGAN_NS,
        "wall_offset_ns": WALL_NS,
        "hooks": [{"hook": "state", "kind": "raw_tracepoint", "tried": []}],
        "facts": {},
        "plan": {},
        "command_line": ["tcptrace", "record", "-o", "run.arrows"],
    }
    return RunInfo(**values | changes)


def make_batches(sizes, step_ns=NS // 3):
    """A batch of each size, one after the other; the third has lost something."""
    batches, first = [], 0
    for i, size in enumerate(sizes):
        now_ns = BEGAN_NS + (i + 1) * step_ns
        lost = {"ring_full": 7, "reentered": 1} if i == 2 else {}
        batches.append(EventBatch(make_events(size, first), now_ns, WALL_NS + i % 2, lost))
        first += size
    return batches


def write(items, info=None, end="stopped", **options):
    """The bytes of a recording of batches and samples; end=None: not ended."""
    stream = io.BytesIO()
    writer = LogWriter(stream.write, info or make_info(), **options)
    for item in items:
        if isinstance(item, Sample):
            writer.sample(item.kind, item.content())
        else:
            writer.append(item)
    if end is None:
        writer.flush()
    else:
        writer.close(end)
    return stream.getvalue()


def read(data, **options):
    """The reader and everything in the recording."""
    reader = LogReader(io.BytesIO(data), "run.arrows", **options)
    return reader, list(reader.items())


def batches_of(items):
    return [item for item in items if isinstance(item, EventBatch)]


def plain(batch):
    """What can be compared."""
    return batch.events.tobytes(), batch.now_ns, batch.wall_offset_ns, batch.lost
