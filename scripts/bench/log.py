#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""
What reading a recording costs: replay into the state, export and query, each in a process of its own.

The recording is one that was made with `tcptrace record`, or, with --events, made events in a file of that many.

Example: .venv/bin/python scripts/bench/log.py --events 10000000
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "scripts/bench"))

from fold import make_lives

from tests.unit.recordings import WALL_NS, make_info
from tracer.cli.options import CaptureOptions
from tracer.cli.pictures import Pictures
from tracer.cli.reconciling import RecordedReconciler, recorded_counters
from tracer.cli.recorded import RecordedCapture
from tracer.cli.run import Stop, make_run
from tracer.events.batch import EventBatch
from tracer.kernel.capture import BATCH_LIMIT
from tracer.log.writer import LogWriter

QUERY = "SELECT count(*), count(DISTINCT sport), max(in_state_us) FROM events"


def make(path: Path, count: int) -> None:
    """A recording of made events, at most 1,000 connections at a time."""
    with path.open("wb") as file:
        log = LogWriter(file.write, make_info(started_ns=1))
        for first in range(0, count, 1_100_000):
            events = make_lives(100_000, 1 << 50, 1000).copy()
            events["ts_ns"] += first * 1000
            for i in range(0, len(events), BATCH_LIMIT):
                part = events[i : i + BATCH_LIMIT]
                log.append(EventBatch(part, int(part["ts_ns"][-1]) + 1, WALL_NS))
        log.close("stopped")


def replay(path: Path) -> None:
    """Folds all of it, and takes every picture, as replay does without a screen."""
    capture = RecordedCapture((str(path),), CaptureOptions().plan())
    run = make_run(capture, CaptureOptions(), Stop())
    pictures, reconciler = Pictures(run), RecordedReconciler(capture)
    start, spent = time.perf_counter(), time.process_time()
    for batch in run.batches(0.0):
        pictures.fold(batch)
        reconciler.apply_if_ready(batch, pictures.reconcile)
        for counters in recorded_counters(capture):
            pictures.take(counters)
    elapsed, spent = time.perf_counter() - start, time.process_time() - spent
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"replay into the state: {run.events / elapsed / 1e6:.2f} million events/s, {spent / run.events * 1e6:.2f} us CPU, {peak:.0f} MB")


def timed(what: str, *arguments: str) -> None:
    """One command of tcptrace: time, CPU and peak memory."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    measured = ["/usr/bin/env", sys.executable, "-m", "tracer", *arguments]
    with subprocess.Popen(measured, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        _, errors = process.communicate()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        sys.exit(errors)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    peak = next(line for line in errors.splitlines() if line.startswith("tcptrace: done:")).split(", ")[-1]
    print(f"{what}: {time.perf_counter() - start:.1f} s, {cpu:.1f} s CPU, {peak}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("recording", nargs="?")
    parser.add_argument("--events", type=int, default=10_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = Path(options.recording) if options.recording else folder / "run.arrows"
        if not options.recording:
            make(path, options.events)
        print(f"{path.stat().st_size / 1e6:.1f} MB")
        replay(path)
        timed("export events to Parquet", "export", str(path), "-o", str(folder / "events.parquet"))
        timed("export connections to Parquet", "export", str(path), "-o", str(folder / "conns.parquet"), "--table", "conns")
        timed("export events to CSV", "export", str(path), "-o", str(folder / "events.csv"))
        timed("query over events", "query", str(path), QUERY)
        for made in sorted(folder.glob("*.*")):
            print(f"{made.name}: {made.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
