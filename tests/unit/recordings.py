# SPDX-License-Identifier: Apache-2.0
"""Made recordings for the tests: events of distinct values, in batches of different sizes, with losses and samples between them."""

import io

import numpy as np

from tracer.events.addresses import V4_PREFIX
from tracer.events.batch import EventBatch
from tracer.events.schema import EVENT_DTYPE, Flag, Kind, State
from tracer.log.entries import FORMAT, RunInfo, Sample
from tracer.log.reader import LogReader
from tracer.log.writer import LogWriter

NS = 1_000_000_000
BEGAN_NS = 1_000 * NS
WALL_NS = 1_790_000_000 * NS


FACTS = {
    "release": "6.18.0-test",
    "version": [6, 18],
    "machine": "x86_64",
    "root": True,
    "capabilities": ["CAP_BPF"],
    "btf": True,
    "tracefs": False,
    "lockdown": "",
    "possible_cpus": 2,
    "home_netns": 4026531840,
    "bcc_python": None,
}

#: A connection to a service of this host, both ends: end, kind, old and new state, whether the owner is known.
LIFE = (
    (0, Kind.STATE, State.CLOSE, State.SYN_SENT, True),
    (0, Kind.STATE, State.SYN_SENT, State.ESTABLISHED, False),
    (1, Kind.STATE, State.LISTEN, State.SYN_RECV, False),
    (1, Kind.STATE, State.SYN_RECV, State.ESTABLISHED, False),
    (1, Kind.ACCEPT, 0, 0, True),
    (0, Kind.STATE, State.ESTABLISHED, State.FIN_WAIT1, True),
    (1, Kind.STATE, State.ESTABLISHED, State.CLOSE_WAIT, False),
    (0, Kind.STATE, State.FIN_WAIT1, State.FIN_WAIT2, False),
    (1, Kind.STATE, State.CLOSE_WAIT, State.LAST_ACK, True),
    (0, Kind.STATE, State.FIN_WAIT2, State.CLOSE, False),
    (1, Kind.STATE, State.LAST_ACK, State.CLOSE, False),
)


def make_lives(count, first_ns=BEGAN_NS, step_ns=1_000_000):
    """Events of *count* connections one after the other, over loopback, each an event every *step_ns*."""
    events = np.zeros(count * len(LIFE), dtype=EVENT_DTYPE)
    loopback = np.frombuffer(V4_PREFIX + b"\x7f\0\0\1", dtype="V16")[0]
    for i, event in enumerate(events):
        number, step = divmod(i, len(LIFE))
        end, kind, old, new, owned = LIFE[step]
        event["kind"], event["old_state"], event["new_state"] = kind, old, new
        event["sock"], event["ts_ns"] = 0xFFFF888000000000 + 2 * number + end, first_ns + i * step_ns
        event["saddr"] = event["daddr"] = loopback
        ports = (40_000 + number, 8080)
        event["sport"], event["dport"] = ports if end == 0 else ports[::-1]
        if step == 0:
            event["sport"] = 0
        event["family"], event["netns"] = 4, 4026531840
        if owned:
            event["flags"], event["tgid"], event["uid"], event["cgroup"] = Flag.HAS_OWNER, 100 + end, 1000 + end, 77
            event["comm"] = (b"client", b"server")[end]
    return events


def make_run(lives=23, batch_events=40, lost_before=None, step_ns=1_000_000):
    """Batches of lives as a capture takes them; the one of that number has lost 5 events."""
    events = make_lives(lives, step_ns=step_ns)
    parts = [events[i : i + batch_events] for i in range(0, len(events), batch_events)]
    return [
        EventBatch(part, int(part["ts_ns"][-1]) + 1, WALL_NS, {"ring_full": 5} if i == lost_before else {}) for i, part in enumerate(parts)
    ]


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
        "facts": FACTS,
        "keep": {},
        "ring_bytes": 8 << 20,
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
            writer.sample(item.kind, item.content)
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
