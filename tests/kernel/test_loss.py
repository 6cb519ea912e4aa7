# SPDX-License-Identifier: Apache-2.0
"""Loss: a ring that overflows loses records, never the count of them."""

import contextlib
import ctypes
import os
import platform
import threading
from collections import Counter
from pathlib import Path

import pytest

from tests.kernel.conftest import wait_until
from tracer.events.filters import CaptureFilter
from tracer.events.schema import STATE_NAMES, Kind
from tracer.kernel.capture import begin
from tracer.kernel.plan import CapturePlan

ONE_PAGE = 4096
#: The kernel never fills the last slot: kernel/bpf/ringbuf.c compares the distance with the mask.
CAPACITY = ONE_PAGE // 128 - 1
COUNT = 211


def take_all(capture):
    events, lost = [], Counter()
    while capture._ring.reader.pending:
        batch = capture.take()
        events.append(batch.events)
        lost.update(batch.lost)
    lost.update(capture.take().lost)
    waiting = capture._births.rest()  # before Linux 6.15
    return [*events, *([] if waiting is None else [waiting])], lost


@contextlib.contextmanager
def inside(netns):
    """This process in the test's namespace, which is then the home of what is started: its counters see no other traffic."""
    libc, clone_newnet = ctypes.CDLL(None, use_errno=True), 0x40000000
    with open("/proc/self/ns/net") as before, open(f"/run/netns/{netns.name}") as there:
        assert libc.setns(there.fileno(), clone_newnet) == 0
        try:
            yield
        finally:
            assert libc.setns(before.fileno(), clone_newnet) == 0


@pytest.fixture
def one_page(netns):
    """A capture of the test's namespace with room for 31 records, read only when the test says so."""
    with inside(netns):
        pending = begin(CapturePlan(CaptureFilter(netns=netns.inode), ONE_PAGE))
    with pending.wait() as capture:
        yield capture


def counted_at_rest(capture):
    """The counters, if nothing happened while they were read: they are no picture of one instant."""
    before, after = capture.counters(), capture.counters()
    return after if (before.seen, before.filtered, before.lost) == (after.seen, after.filtered, after.lost) else None


def test_with_a_ring_of_one_page_records_and_lost_make_up_what_was_counted(one_page, netns):
    before = netns.snmp()
    netns.traffic("pairs", count=COUNT)
    after = netns.snmp()
    counters = wait_until(lambda: counted_at_rest(one_page), "a moment without an event anywhere on the host")
    events, lost = take_all(one_page)

    taken = sum(map(len, events))
    assert CAPACITY == taken == counters.records
    assert counters.seen == counters.records + counters.filtered + counters.lost["ring_full"]
    assert counters.lost["ring_full"] == lost["ring_full"] > 0
    # Exact in spite of the loss.
    transitions = counters.transitions[0]
    assert COUNT == transitions[STATE_NAMES.index("CLOSE"), STATE_NAMES.index("SYN_SENT")] == after["ActiveOpens"] - before["ActiveOpens"]
    assert transitions[STATE_NAMES.index("LISTEN"), STATE_NAMES.index("SYN_RECV")] == COUNT
    assert counters.accepts[0] == COUNT


def test_an_overflowed_ring_goes_on_once_it_is_read(one_page, netns):
    netns.traffic("pairs", count=COUNT)
    take_all(one_page)
    netns.traffic("refused", count=3)
    events, lost = take_all(one_page)

    seen = [(STATE_NAMES[e["old_state"]], STATE_NAMES[e["new_state"]]) for batch in events for e in batch if e["kind"] == Kind.STATE]
    assert seen.count(("CLOSE", "SYN_SENT")) == 3
    assert seen.count(("SYN_SENT", "CLOSE")) == 3
    assert not lost


def test_the_events_command_says_what_is_missing(start, netns):
    tracer = start("events", "--format", "json", "--ring-size", "4K", "--netns", netns.name)
    done = netns.traffic("pairs", count=COUNT)
    tracer.end()
    events = tracer.events()

    for event in events:
        client, server = (done["client_pid"], "the-client"), (done["server_pid"], "the-server")
        mine = client if event["dport"] == done["port"] else server
        assert (event["pid"], event["comm"]) in (mine, (None, None)) or event["dport"] == 0, event
    missing = sum(e["lost"] for e in events if e["kind"] == "lost")
    summary = tracer.summary()
    assert missing == summary["lost"] > 0
    assert len([e for e in events if e["kind"] != "lost"]) == summary["events"]
    assert "incomplete" in tracer.stderr.splitlines()[-1]
    assert "--ring-size" in tracer.stderr.splitlines()[-1]


def test_the_ring_wraps_many_times_without_loss(start, netns):
    tracer = start("events", "--format", "json", "--ring-size", "64K", "--netns", netns.name)
    for chunk in range(1, 15):
        netns.traffic("pairs", count=41)  # 453 records and the listener's two fit into 511 slots
        wait_until(lambda chunk=chunk: tracer.accepts() == 41 * chunk, "the events of one chunk")
    events = tracer.stop()

    assert tracer.summary()["lost"] == 0
    assert sum(e["kind"] == "accept" for e in events) == 14 * 41
    assert len(events) * 128 > 10 * 64 * 1024


def test_a_filling_ring_wakes_its_reader_before_the_poll_is_due(netns):
    with begin(CapturePlan(CaptureFilter(netns=netns.inode), 64 * 1024)).wait() as capture:
        sizes = []
        batches = capture.batches(lambda: False, poll_s=3600)
        reader = threading.Thread(target=lambda: sizes.append(len(next(batches))), daemon=True)
        reader.start()
        netns.traffic("pairs", count=41)  # 453 records in 512 slots
        wait_until(lambda: sizes, "the reader to be woken")
        reader.join()

    assert sizes[0] > 256


def test_what_a_softirq_makes_the_kernel_skip_is_rescued_or_counted(start, netns):
    """With one program alone some tens of these are skipped; see bpf/tcptrace.bpf.c, on_set_state_nested."""
    count = 10_007
    tracer = start("events", "--format", "json", "--netns", netns.name, "--ring-size", "32M")  # room for all of it
    netns.traffic("pairs", count=count)
    tracer.end()
    changes = Counter((e["old"], e["new"]) for e in tracer.events() if e["kind"] == "state" and e["dport"])

    missing = 10 * count - changes.total()
    summary = tracer.summary()
    assert 10 == len(changes)
    assert max(changes.values()) <= count
    # What is skipped is not known by namespace: on a busy host it may be more than ours.
    assert 0 <= missing <= summary["lost"] == summary["lost_by_reason"].get("reentered", 0), changes
    assert missing <= summary["rescued"]


SYS_BPF = {"x86_64": 321, "aarch64": 280}[platform.machine()]
BPF_ENABLE_STATS = 32


@contextlib.contextmanager
def programs_counted():
    """The kernel counts meanwhile how often each program runs; source: bpf(2), BPF_ENABLE_STATS, v5.8."""
    run_time_stats = ctypes.create_string_buffer(4)
    fd = ctypes.CDLL(None, use_errno=True).syscall(SYS_BPF, BPF_ENABLE_STATS, run_time_stats, len(run_time_stats))
    assert fd >= 0, os.strerror(ctypes.get_errno())
    try:
        yield
    finally:
        os.close(fd)


def most_hits():
    """How often the kernel came to that of this process's programs that it came to most often, whether it ran or was skipped."""
    found = []
    for fd in Path("/proc/self/fdinfo").iterdir():
        with contextlib.suppress(OSError):
            fields = dict(line.split(":", 1) for line in fd.read_text().splitlines() if ":" in line)
            if "run_cnt" in fields:
                found.append(int(fields["run_cnt"]) + int(fields.get("recursion_misses", 0)))  # counted since v5.12
    return max(found)


def test_each_hit_of_the_tracepoint_is_one_event_or_counted_as_lost(netns):
    def at_rest():
        before, counters, after = most_hits(), counted_at_rest(capture), most_hits()
        return (counters, after) if counters and before == after else None

    with programs_counted(), begin(CapturePlan(CaptureFilter(netns=netns.inode), 32 << 20)).wait() as capture:
        netns.traffic("pairs", count=10_007)
        counters, hits = wait_until(at_rest, "a moment without an event anywhere on the host")

    told = int(counters.transitions.sum()) + counters.other_protocols
    assert hits > 80_000
    assert 0 <= hits - told <= counters.lost["reentered"]
