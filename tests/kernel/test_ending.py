# SPDX-License-Identifier: Apache-2.0
"""How a capture begins and ends: limits, signals, closed pipes, several at once, no privilege."""

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.kernel.conftest import PATIENCE, TIMEOUT_S, on_one_cpu, wait_until
from tracer.kernel.counters import SYS_BPF

ROOT = Path(__file__).resolve().parents[2]
BPF_PROG_GET_NEXT_ID = 11


def loaded_programs() -> set[int]:
    """Ids of all BPF programs in the kernel."""
    libc, found, last = ctypes.CDLL(None), set(), 0
    while True:
        attributes = (ctypes.c_uint32 * 3)(last, 0, 0)
        if libc.syscall(SYS_BPF, BPF_PROG_GET_NEXT_ID, attributes, ctypes.sizeof(attributes)):
            return found
        last = attributes[1]
        found.add(last)


def children_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_in_good_order(trace, netns, number):
    tracer = trace()
    netns.traffic("pairs", count=23)
    tracer.stop(number)

    last = tracer.stderr.splitlines()[-1]
    assert last.startswith("tcptrace: done: ")
    assert tracer.summary()["events"] == len(tracer.events()) >= 11 * 23


def test_count_gives_exactly_that_many_events(trace, netns):
    tracer = trace("--count", "17")
    netns.traffic("pairs", count=5)

    assert tracer.process.wait(TIMEOUT_S) == 0
    assert 17 == len(tracer.events()) == tracer.summary()["written"]


def test_duration_ends_it(trace):
    tracer = trace("--duration", "0.3")

    assert tracer.process.wait(TIMEOUT_S) == 0
    assert 0.3 <= tracer.summary()["duration_s"] < TIMEOUT_S


def test_a_closed_pipe_is_a_normal_end(netns):
    command = f"{sys.executable} -m tracer events --netns {netns.name} | head -3"
    shell = subprocess.Popen(["bash", "-o", "pipefail", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert shell.stderr is not None
    assert shell.stderr.readline().startswith("tcptrace: capturing")
    while shell.poll() is None:
        netns.traffic("pairs", count=3)
    out, err = shell.communicate()

    assert len(out.splitlines()) == 3
    assert shell.returncode == 0, err
    assert "Traceback" not in err


def test_a_pipe_shows_an_event_soon_after_it_happened(netns):
    command = [sys.executable, "-m", "tracer", "events", "--format", "json", "--netns", netns.name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        assert process.stderr.readline().startswith("tcptrace: capturing")
        threading.Thread(target=netns.traffic, args=("refused",), kwargs={"count": 1}).start()
        event = json.loads(process.stdout.readline())
        delay_ns = time.monotonic_ns() - event["ts_ns"]
        process.send_signal(signal.SIGINT)
        process.communicate()

    # The poll is every 50 ms; this is no measurement, it tells flushing from waiting for a full buffer.
    assert delay_ns < 2_000_000_000 * PATIENCE


def test_two_at_the_same_time_see_the_same(trace, netns):
    first, second = trace(), trace()
    with on_one_cpu():
        netns.traffic("pairs", count=23)
    # Two CPUs may come to the two rings in different order; the events of one socket may not.
    seen = [sorted(((e["sock"], e["kind"], e["old"], e["new"], e["pid"]) for e in t.stop()), key=lambda e: e[0]) for t in (first, second)]

    assert seen[0] == seen[1]
    assert len(seen[0]) >= 11 * 23


def test_no_child_is_left_and_nothing_stays_in_the_kernel_after_kill(trace):
    before = loaded_programs()
    tracer = trace()
    attached = loaded_programs() - before
    assert children_of(tracer.process.pid) == []
    assert attached

    tracer.kill()
    # The kernel frees a program some time after its last user has gone.
    wait_until(lambda: not attached & loaded_programs(), "the programs to go")


def test_without_root_it_says_so(tmp_path):
    # As a user who can read neither this checkout's parents nor root's files, from a copy.
    copy = tmp_path / "tracer"
    subprocess.run(["cp", "-r", str(ROOT / "tracer"), str(copy)], check=True)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and folder != Path("/") and folder != Path("/tmp"):
            folder.chmod(0o755)
    script = (
        "import os, sys; from tracer.cli.app import run; import tracer.kernel.capture, tracer.kernel.loader;"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534); sys.exit(run(['events']))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert done.returncode == 3, done.stderr
    assert done.stderr.splitlines()[:1] == ["tcptrace: error: tracing needs root"]
    assert "sudo" in done.stderr


@pytest.mark.parametrize(
    ("redirection", "code", "error"),
    [
        (">&-", 2, "tcptrace: error: standard output is closed"),
        (">/dev/full", 1, "tcptrace: error: cannot write the output: No space left on device"),
    ],
)
@pytest.mark.parametrize("command", ["events", "live", "conns", "doctor"])
def test_an_output_that_cannot_be_written_is_one_clear_error(command, redirection, code, error):
    limit = "" if command == "doctor" else "--duration 0.3"
    line = f"{sys.executable} -m tracer {command} {limit} {redirection}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, cwd=ROOT, check=False)

    assert code == done.returncode, done.stderr
    assert error in done.stderr.splitlines()
    assert "Traceback" not in done.stderr


def test_with_standard_error_closed_nothing_of_it_gets_into_the_output(netns):
    line = f"{sys.executable} -m tracer events --format json --netns {netns.name} --duration 0.3 2>&-"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, cwd=ROOT, check=False)

    assert (0, "") == (done.returncode, done.stdout)
