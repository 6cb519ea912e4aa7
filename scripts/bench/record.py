#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""
What recording costs under full load, and what is left of a recording that is killed.

Each round: connload alone, then under `tcptrace record`. With --kills N the recorder is killed N times at random moments, and every file is
read: how many events it has, and how old the last one was.

Example: sudo .venv/bin/python scripts/bench/record.py --connections 100000 --rounds 5 --kills 50
"""

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "scripts/bench"))

from overhead import build, cpu_s, load

from tracer.log.reader import LogReader


class Recorder:
    """`tcptrace record` as its user runs it, from when it captures."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.path, self._summary, self._errors = folder / "run.arrows", folder / "summary", folder / "stderr"
        command = [sys.executable, "-m", "tracer", "record", "-o", str(self.path), "--force", "--summary", str(self._summary), *options]
        with self._errors.open("w") as errors:
            self.process = subprocess.Popen(command, stderr=errors, cwd=ROOT)
        while "tcptrace: capturing" not in self._errors.read_text():
            if self.process.poll() is not None:
                sys.exit(self._errors.read_text())
            time.sleep(0.02)

    def stop(self) -> dict[str, float]:
        self.process.send_signal(signal.SIGINT)
        self.process.wait()
        result: dict[str, float] = json.loads(self._summary.read_text())
        return result


def in_one_line(values: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" if value < 1e4 else f"{name} {value:.0f}" for name, value in values.items())


def one_round(binary: Path, folder: Path, options: argparse.Namespace) -> dict[str, float]:
    alone = load(binary, options.connections)
    recorder = Recorder(folder, "--compression", options.compression)
    idle = cpu_s(recorder.process.pid)
    traced = load(binary, options.connections)
    # A signal ends it in good order: all that was in the ring is in the file.
    own = recorder.stop()
    return {
        "ratio": traced["rate_per_s"] / alone["rate_per_s"],
        "events": own["events"],
        "lost": own["lost"],
        "us_per_event": (own["cpu_s"] - idle) / own["events"] * 1e6,
        "bytes_per_event": recorder.path.stat().st_size / own["events"],
        "peak_mb": own["max_rss_bytes"] / 1e6,
    }


def one_kill(binary: Path, folder: Path, rng: random.Random) -> tuple[int, float]:
    """Events in the file of a recorder that was killed under load, and how many seconds before the kill the last was taken."""
    recorder = Recorder(folder)
    with subprocess.Popen([str(binary), "-n", "10000000", "-r", "2000"], stdout=subprocess.DEVNULL) as traffic:
        time.sleep(rng.uniform(0.3, 4))
        recorder.process.kill()
        killed_ns = time.monotonic_ns()
        recorder.process.wait()
        traffic.terminate()
    with recorder.path.open("rb", buffering=0) as stream:
        reader = LogReader(stream, str(recorder.path))
        batches = [item for item in reader.items() if hasattr(item, "events")]
    assert not reader.condition.damage
    last_ns = batches[-1].now_ns if batches else reader.info.started_ns
    return sum(map(len, batches)), (killed_ns - last_ns) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=100_000)
    parser.add_argument("--compression", default="zstd")
    parser.add_argument("--kills", type=int, default=0)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        folder = Path(name)
        binary = build(folder)
        for number in range(options.rounds):
            rows.append(one_round(binary, folder, options))
            print(
                f"round {number + 1}: " + "  ".join(f"{k} {v:.4g}" if v < 1e4 else f"{k} {v:.0f}" for k, v in rows[-1].items()), flush=True
            )
        if rows:
            print("median:  " + in_one_line({key: statistics.median(row[key] for row in rows) for key in rows[0]}))
        rng = random.Random(7)
        kills = [one_kill(binary, folder, rng) for _ in range(options.kills)]
        if kills:
            events, ages = zip(*kills, strict=True)
            print(f"{len(kills)} kills: all files readable, with {min(events)} to {max(events)} events; ", end="")
            print(f"the last batch {max(ages):.2f} s before the kill at most, {statistics.median(ages):.2f} s in the median")


if __name__ == "__main__":
    main()
