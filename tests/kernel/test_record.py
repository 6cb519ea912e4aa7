# SPDX-License-Identifier: Apache-2.0
"""The event log on the kernel: what is recorded is what happened, a replay is the run, and what goes wrong meanwhile is told."""

import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from functools import partial

import pytest

from tests.kernel.conftest import PATIENCE, ROOT, TIMEOUT_S, on_one_cpu, wait_until
from tests.kernel.test_truth import Holder
from tests.unit.recordings import make_info
from tracer.events.filters import CaptureFilter
from tracer.kernel.capture import begin
from tracer.kernel.plan import CapturePlan
from tracer.log import recording, writer
from tracer.log.background import BackgroundWriter
from tracer.log.frames import FrameReader
from tracer.log.reader import LogReader
from tracer.log.recording import Destination, Recording

COUNT = 23


def tcptrace(*arguments, code=0, **options):
    """tcptrace to its end; what it wrote to standard output, and to standard error."""
    command = [sys.executable, "-m", "tracer", *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT, **options)
    assert code == done.returncode, done.stderr
    return done.stdout, done.stderr


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


def read(path):
    """The reader and all batches of a recording."""
    with open(path, "rb") as file:
        reader = LogReader(file, str(path))
        return reader, [item for item in reader.items() if hasattr(item, "events")]


def events_in(path):
    return sum(len(batch) for batch in read(path)[1])


@pytest.fixture
def record(start, netns, tmp_path):
    """Starts `tcptrace record` on the test's namespace; the tracer and the file."""

    def begin(*arguments, prefix=None, path=None):
        path = path or tmp_path / "run.arrows"
        return start("record", "-o", str(path), "--netns", netns.name, *arguments, prefix=prefix), path

    return begin


def without_self(snapshots):
    return [{name: value for name, value in snapshot.items() if name != "self"} for snapshot in snapshots]


def test_a_replay_gives_the_snapshots_of_the_live_run(record, netns):
    tracer, path = record("--json")
    netns.traffic("pairs", count=COUNT)
    wait_until(lambda: len(tracer.events()) >= 2, "two pictures")
    netns.traffic("refused", count=COUNT)
    netns.traffic("reset", count=COUNT)
    wait_until(lambda: (tracer.events()[-1]["drift"] or {}).get("table"), "a look at the kernel's table")
    seen = without_self(tracer.stop())
    for command in (("live", "--json", "--input", path), ("replay", "--json", "--speed", "max", path)):
        replayed = without_self(lines(tcptrace(*command)[0]))
        assert [json.dumps(snapshot) for snapshot in seen] == [json.dumps(snapshot) for snapshot in replayed]
    assert tracer.summary()["events"] == seen[-1]["totals"]["events"]
    assert 11 * COUNT < seen[-1]["totals"]["events"]
    # The samples of the kernel took part in it.
    assert seen[-1]["drift"]["table"] is not None
    assert {"drift", "states", "top", "latency", "sockstat"} <= set(seen[-1])


def test_events_and_connections_of_a_recording_are_those_that_were_seen_live(record, start, netns):
    events, conns = (start(name, "--format", "json", "--netns", netns.name) for name in ("events", "conns"))
    tracer, path = record()
    with on_one_cpu():
        netns.traffic("pairs", count=COUNT)
        netns.traffic("exchange", sizes=[[1000 + i, 7 * i] for i in range(COUNT)])
    wait_until(lambda: len(conns.events()) >= 4 * COUNT, "the connections")
    live = {"events": events.stop(), "conns": conns.stop()}
    tracer.stop()

    for name, seen in live.items():
        recorded = lines(tcptrace(name, "--format", "json", "--input", path)[0])
        for objects in (seen, recorded):
            # A segment may be sent again after one capture has ended and before the other.
            objects[:] = [thing for thing in objects if thing.get("kind") != "retransmit"]
            for thing in objects:
                thing.pop("retransmits", None)
                # Each capture has programs of its own, which read the clock one after the other.
                for varying in ("time", "ts_ns", "in_state_us", "opened", "closed", "duration_ms", "handshake_us", "accept_wait_us"):
                    thing.pop(varying, None)
        assert len(seen) >= 2 * COUNT
        assert sorted(map(json.dumps, seen)) == sorted(map(json.dumps, recorded))


def test_a_recording_begins_with_what_was_open_before_it(record, netns):
    holder = Holder(netns, "pairs", str(COUNT))
    tracer, path = record("--json")
    wait_until(lambda: tracer.events() and tracer.events()[-1]["drift"], "the table of sockets")
    holder.step()
    wait_until(lambda: tracer.events()[-1]["totals"]["events"] >= 5 * COUNT, "the connections to end")
    holder.end()
    seen = without_self(tracer.stop())
    ended = lines(tcptrace("conns", "--format", "json", "--input", path)[0])

    assert {(None, holder.told["pid"], "the-holder", "fd_scan")} == {(c["opened"], c["pid"], c["comm"], c["pid_source"]) for c in ended}
    assert 2 * COUNT == len(ended)
    assert seen == without_self(lines(tcptrace("replay", "--json", "--speed", "max", path)[0]))


def test_the_recording_is_the_owners_alone(record, netns, monkeypatch):
    monkeypatch.setenv("SUDO_UID", "1234")
    monkeypatch.setenv("SUDO_GID", "2345")
    tracer, path = record()
    tracer.stop()

    status = path.stat()
    assert (1234, 2345, 0o600) == (status.st_uid, status.st_gid, status.st_mode & 0o777)


def test_an_existing_file_stays_unless_it_is_to_be_replaced(record, tmp_path):
    path = tmp_path / "run.arrows"
    path.write_text("mine")
    _, errors = tcptrace("record", "-o", path, code=2)
    assert "--force" in errors
    assert "mine" == path.read_text()
    tracer, _ = record("--force")
    tracer.stop()
    assert "stopped" == read(path)[0].condition.ended


def test_through_a_pipe_to_another_program(netns):
    command = [sys.executable, "-m", "tracer", "record", "-o", "-", "--netns", netns.name, "--count", str(11 * COUNT)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=False, cwd=ROOT) as recorder:
        first = recorder.stderr.readline()
        assert b"capturing" in first, first
        reader = subprocess.Popen(
            [sys.executable, "-m", "tracer", "events", "--format", "json", "--input", "-"],
            stdin=recorder.stdout,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
        )
        recorder.stdout.close()
        netns.traffic("pairs", count=2 * COUNT)
        out, _ = reader.communicate(timeout=TIMEOUT_S)
        recorder.wait(TIMEOUT_S)

    assert 0 == recorder.returncode == reader.returncode
    assert 11 * COUNT == len([e for e in lines(out.decode()) if e["kind"] != "lost"])


def test_a_reader_that_goes_away_ends_it_in_good_order(netns, tmp_path, start):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    got = []

    def read_a_little():
        with open(fifo, "rb") as stream:
            got.append(stream.read(10_000))

    reader = threading.Thread(target=read_a_little)
    reader.start()
    tracer = start("record", "-o", str(fifo), "--netns", netns.name)
    wait_until(lambda: netns.traffic("pairs", count=211) and tracer.process.poll() is not None, "the recorder to notice")
    reader.join()

    assert 0 == tracer.process.returncode, tracer.stderr
    assert got[0].startswith(b"\xff\xff\xff\xff")


def test_rotation_keeps_the_newest_files_and_they_make_one_run(record, netns, tmp_path):
    tracer, _ = record("--rotate-time", "1", "--keep", "3")
    parts = lambda: sorted(tmp_path.glob("run.0*.arrows"))  # noqa: E731  # a condition to wait for
    wait_until(lambda: netns.traffic("pairs", count=COUNT) and any("0005" in p.name for p in parts()), "the fifth file")
    tracer.stop()

    assert 3 == len(parts())
    readers = [read(path)[0] for path in parts()]
    assert ["rotated", "rotated", "stopped"] == [reader.condition.ended for reader in readers]
    inputs = [word for path in parts() for word in ("--input", str(path))]
    out, errors = tcptrace("events", "--format", "json", *inputs)
    assert sum(map(events_in, parts())) == len(lines(out))
    assert " missing" not in errors


def test_all_files_of_a_rotation_together_hold_everything(record, netns, tmp_path):
    tracer, _ = record("--rotate-time", "1")
    wait_until(lambda: netns.traffic("pairs", count=COUNT) and len(list(tmp_path.glob("run.0*.arrows"))) > 2, "three files")
    tracer.stop()
    inputs = [word for path in tmp_path.glob("run.0*.arrows") for word in ("--input", str(path))]

    assert tracer.summary()["events"] == len(lines(tcptrace("events", "--format", "json", *inputs)[0]))


def test_it_stops_at_its_largest_size(record, netns):
    tracer, path = record("--max-size", "64K")
    wait_until(lambda: netns.traffic("pairs", count=211) and tracer.process.poll() is not None, "the file to be full")

    assert 0 == tracer.process.returncode, tracer.stderr
    with open(path, "rb") as file:
        ends = [s.position + s.length for s in FrameReader(file)]
    # The frame that reached it, the one that says that it ends, and the mark of the end.
    assert ends[-4] < 64 << 10 <= ends[-3]
    assert "stopped" == read(path)[0].condition.ended


def test_killed_at_any_moment_it_leaves_what_was_there_a_second_before(record, netns, tmp_path):
    rng = random.Random(os.getpid())
    for number in range(4):
        tracer, path = record(path=tmp_path / f"run{number}.arrows")
        deadline = time.monotonic() + rng.uniform(0.5, 2.0)
        killed_ns = 0
        while time.monotonic() < deadline:
            netns.traffic("pairs", count=COUNT)
        killed_ns = time.monotonic_ns()
        tracer.kill()
        reader, batches = read(path)
        assert "" == reader.condition.ended
        assert [] == reader.condition.damage
        # Batches are taken every 0.1 s and wait for a second at most; the rest is for a busy machine.
        known_ns = batches[-1].now_ns if batches else reader.info.started_ns
        assert known_ns > killed_ns - 3_000_000_000 * PATIENCE
        out, errors = tcptrace("events", "--format", "json", "--input", path)
        assert sum(map(len, batches)) == len(lines(out))
        assert "its end is missing" in errors


FULL_DISK = """
mount -t tmpfs -o size=1m tmpfs "$1" || exit 99
shift 2
"$@" --summary "$SUMMARY"
code=$?
cp "$FOLDER/run.arrows" "$SAVED"
exit $code
"""


def test_a_full_disk_ends_it_with_one_clear_error_and_what_was_written_stays(netns, tmp_path):
    folder, saved = tmp_path / "small", tmp_path / "saved.arrows"
    folder.mkdir()
    command = [sys.executable, "-m", "tracer", "record", "-o", str(folder / "run.arrows"), "--netns", netns.name]
    environment = os.environ | {"SUMMARY": str(tmp_path / "summary"), "FOLDER": str(folder), "SAVED": str(saved)}
    with open(tmp_path / "err", "w") as err:
        process = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", FULL_DISK, "sh", str(folder), "--", *command], stderr=err, cwd=ROOT, env=environment
        )
    errors = (tmp_path / "err").read_text
    wait_until(lambda: "capturing" in errors() or process.poll() is not None, "tcptrace to capture")
    wait_until(lambda: netns.traffic("pairs", count=211) and process.poll() is not None, "the disk to be full")

    assert 1 == process.returncode, errors()
    assert 1 == errors().count("tcptrace: error: cannot write")
    assert "No space left on device" in errors()
    assert "Traceback" not in errors()
    reader, batches = read(saved)
    assert sum(map(len, batches)) > 0
    assert ("", [], 0) == (reader.condition.ended, reader.condition.damage, reader.condition.cut_bytes)


def test_what_a_stopped_recorder_misses_is_counted_as_loss(record, netns):
    tracer, path = record("--ring-size", "64K")
    tracer.process.send_signal(signal.SIGSTOP)
    netns.traffic("pairs", count=211)
    tracer.process.send_signal(signal.SIGCONT)
    tracer.end()
    _, batches = read(path)
    lost = sum(batch.lost.get("ring_full", 0) for batch in batches)
    summary = tracer.summary()

    assert 511 >= sum(map(len, batches)) == summary["events"] > 0
    assert lost == summary["lost_by_reason"]["ring_full"] > 0
    # The namespace's own counters are exact; what found no room is counted for the whole host.
    assert 11 * 211 <= summary["events"] + summary["lost"]
    said = [e["lost"] for e in lines(tcptrace("events", "--format", "json", "--input", path)[0]) if e["kind"] == "lost"]
    assert summary["lost"] == sum(said)


def test_what_a_disk_that_stalls_costs_is_counted_as_loss(netns, tmp_path, monkeypatch):
    monkeypatch.setattr(recording, "BackgroundWriter", partial(BackgroundWriter, room_bytes=1 << 16))
    monkeypatch.setattr(writer, "ROWS", 100)
    fifo, gate, got, stopping = tmp_path / "fifo", threading.Event(), [], threading.Event()
    os.mkfifo(fifo)

    def read_late():
        with open(fifo, "rb") as stream:
            gate.wait(3 * TIMEOUT_S)
            got.append(stream.read())

    def record_all(capture):
        with Recording(Destination(str(fifo), compression="none")) as log:
            log.begin(make_info(started_ns=time.monotonic_ns()))
            for batch in capture.batches(stopping.is_set):
                log.append(batch)

    with begin(CapturePlan(CaptureFilter(netns=netns.inode), 64 * 1024)).wait() as capture:
        threads = [threading.Thread(target=read_late), threading.Thread(target=record_all, args=(capture,))]
        for thread in threads:
            thread.start()
        wait_until(lambda: netns.traffic("pairs", count=211) and capture.counters().lost["ring_full"], "the ring to be full")
        gate.set()
        stopping.set()
        for thread in reversed(threads):
            thread.join(3 * TIMEOUT_S)
        counters = capture.counters()
    reader = LogReader(io.BytesIO(got[0]), "fifo")
    batches = [item for item in reader.items() if hasattr(item, "events")]

    assert "stopped" == reader.condition.ended
    assert counters.records == sum(map(len, batches)) > 0
    assert counters.lost["ring_full"] == sum(batch.lost.get("ring_full", 0) for batch in batches) > 0


def test_only_the_events_of_wanted_owners_are_recorded(record, netns):
    tracer, path = record("-c", "the-server")
    netns.traffic("pairs", count=COUNT)
    tracer.stop()
    events = lines(tcptrace("events", "--format", "json", "--input", path)[0])

    assert {"the-server"} == {event["comm"] for event in events}
    assert COUNT == sum(event["kind"] == "accept" for event in events)
