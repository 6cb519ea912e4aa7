# SPDX-License-Identifier: Apache-2.0
"""Each way to see an accept, wherever the kernel has it; and where not, that it says so."""

import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.kernel.conftest import ROOT, wait_until
from tests.kernel.hooks import ACCEPT_KINDS, promised, request_of, working
from tracer.events.filters import CaptureFilter
from tracer.events.schema import Kind
from tracer.kernel.capture import Capture
from tracer.kernel.facts import probe
from tracer.kernel.loader import CHILD, Loader
from tracer.kernel.plan import CapturePlan

COUNT = 23
THREADS = 64
LISTENER_KINDS = ["fexit", "kprobe"]


@pytest.fixture
def trace_by(trace):
    """Traces with one accept hook; where this kernel lacks it, the test ends with the proof that this is said clearly."""

    def start(kind):
        if kind in working()["accept"]:
            return trace("--accept-hook", kind)
        assert kind not in (promised() or {}).get("accept", [])
        assert_refused(kind)
        pytest.skip(f"this kernel has no {kind} for accept; that it says so is shown")

    return start


def assert_refused(kind):
    command = [sys.executable, "-m", "tracer", "events", "--accept-hook", kind]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)

    assert done.returncode == 3, done.stderr
    assert done.stderr.startswith("tcptrace: error: ")
    assert "Traceback" not in done.stderr


@pytest.mark.guest
@pytest.mark.parametrize("kind", ACCEPT_KINDS)
def test_of_64_threads_blocked_in_accept_none_is_missed(trace_by, netns, kind):
    tracer = trace_by(kind)
    done = netns.traffic("crowd", threads=THREADS, count=COUNT)
    accepts = [e for e in tracer.stop() if e["kind"] == "accept"]

    assert Counter(e["dport"] for e in accepts) == Counter(done["clients"])
    assert len(accepts) == COUNT
    assert {(done["server_pid"], "the-server", "accept")} == {(e["pid"], e["comm"], e["pid_source"]) for e in accepts}
    assert tracer.summary()["hooks"]["accept"] == kind
    assert tracer.summary()["lost"] == 0


@pytest.mark.parametrize("kind", ACCEPT_KINDS)
def test_every_way_to_accept_is_seen_with_each_hook(trace_by, netns, kind):
    tracer = trace_by(kind)
    done = netns.traffic("accept_variants")
    accepts = [e for e in tracer.stop() if e["kind"] == "accept"]

    assert done["expected"] == {str(e["dport"]): {"pid": e["pid"], "comm": e["comm"]} for e in accepts}
    assert len(done["expected"]) == len(accepts)


@pytest.mark.parametrize("kind", ACCEPT_KINDS)
def test_a_failed_accept_and_one_of_another_protocol_give_no_event_with_any_hook(trace_by, netns, kind):
    tracer = trace_by(kind)
    netns.traffic("failed_accepts", count=COUNT)

    assert [e for e in tracer.stop() if e["kind"] == "accept"] == []


@pytest.mark.parametrize("kind", LISTENER_KINDS)
def test_an_accept_tells_how_many_still_wait_and_how_many_may(trace_by, netns, kind):
    tracer = trace_by(kind)
    netns.traffic("queued", count=5, limit=7)
    accepts = [e for e in tracer.stop() if e["kind"] == "accept"]

    assert [(4, 7), (3, 7), (2, 7), (1, 7), (0, 7)] == [(e["backlog"], e["backlog_max"]) for e in accepts]


def test_where_the_listener_is_not_known_no_backlog_is_stated(trace_by, netns):
    tracer = trace_by("syscall")
    netns.traffic("queued", count=5, limit=7)
    events = tracer.stop()

    assert {(None, None)} == {(e["backlog"], e["backlog_max"]) for e in events}
    assert sum(e["kind"] == "accept" for e in events) == 5


def probes():
    """The definitions of ours in tracefs, which a test that uses a kprobe finds mounted or mounts for itself."""
    command = "mountpoint -q /sys/kernel/tracing || mount -t tracefs tracefs /sys/kernel/tracing; cat /sys/kernel/tracing/kprobe_events"
    found = subprocess.run(["unshare", "--mount", "bash", "-c", command], capture_output=True, text=True, check=True).stdout
    return [line for line in found.splitlines() if ":tcptrace/" in line]


def test_a_return_probe_goes_with_tcptrace_and_a_killed_ones_with_the_next(trace_by):
    first = trace_by("kprobe")
    assert len(probes()) == 1
    first.stop()
    assert probes() == []

    killed = trace_by("kprobe")
    killed.kill()
    assert len(probes()) == 1
    other, last = trace_by("kprobe"), trace_by("kprobe")
    assert len(probes()) == 2
    assert not any(f"accept_{killed.process.pid}_" in line for line in probes())
    other.stop()
    last.stop()
    wait_until(lambda: probes() == [], "the definitions to go")
    assert not Path(f"/proc/{killed.process.pid}").exists()


def test_calls_that_find_no_room_in_a_return_probe_are_counted_as_losses(netns, tmp_path):
    if "kprobe" not in working()["accept"]:
        pytest.skip("this kernel has no kprobe for accept")
    child = shutil.copytree(CHILD, tmp_path / "child")
    source = child / "return_probe.py"
    source.write_text(source.read_text().replace("MAXACTIVE = 4096", "MAXACTIVE = 7"))
    plan = CapturePlan(CaptureFilter(netns=netns.inode), accept_hook="kprobe")
    with Loader(probe().bcc_python, request_of(plan=plan), child) as loader, Capture(probe(), plan, loader.result()) as capture:
        netns.traffic("crowd", threads=THREADS, count=COUNT)
        batch = capture.take()

    seen = int((batch.events["kind"] == Kind.ACCEPT).sum())
    assert batch.lost["accept_missed"] >= THREADS - 7
    assert COUNT - batch.lost["accept_missed"] <= seen <= COUNT
