#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""
One recording of 500,000 events, checked from all sides: libbpf-tools' tcpstates beside it, a replay against the live run, and three other
programs that open the file without us.

Example: sudo .venv/bin/python scripts/bench/log_check.py
"""

import argparse
import importlib.util
import json
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "scripts/bench"))

from overhead import PEERS, build, load

#: It needs tracefs, which is mounted for it alone.
TCPSTATES = "mountpoint -q /sys/kernel/tracing || mount -t tracefs tracefs /sys/kernel/tracing; exec " + shlex.join(PEERS["tcpstates"])

READERS = {
    "pyarrow": "import sys, pyarrow; print(pyarrow.ipc.open_stream(sys.argv[1]).read_all().num_rows)",
    "polars": "import sys, polars; print(polars.read_ipc_stream(sys.argv[1]).height)",
    "duckdb": "import sys, duckdb, pyarrow; s = pyarrow.ipc.open_stream(sys.argv[1]); print(duckdb.sql('FROM s').shape[0])",
}


def tcptrace(*arguments: str, **options: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "tracer", *arguments], cwd=ROOT, **options)  # type: ignore[call-overload]


def snapshots(path: Path) -> list[dict[str, object]]:
    """The snapshots in a file of JSON Lines, without what tcptrace says of itself."""
    return [{k: v for k, v in json.loads(line).items() if k != "self"} for line in path.read_text().splitlines()]


def record(folder: Path, binary: Path, connections: int) -> dict[str, float]:
    """Records the load with tcpstates beside it; the summary of the run."""
    errors = folder / "stderr"
    with (folder / "live.json").open("wb") as out, errors.open("wb") as err, (folder / "tcpstates").open("wb") as lines:
        peer = subprocess.Popen(["unshare", "--mount", "bash", "-c", TCPSTATES], stdout=lines, stderr=lines)
        recorder = tcptrace(
            "record", "-o", str(folder / "run.arrows"), "--json", "--summary", str(folder / "summary"), stdout=out, stderr=err
        )
        while "tcptrace: capturing" not in errors.read_text():
            time.sleep(0.05)
        time.sleep(1.5)
        load(binary, connections)
        time.sleep(1.5)
        for process in (recorder, peer):
            process.send_signal(signal.SIGINT)
            process.wait()
    summary: dict[str, float] = json.loads((folder / "summary").read_text())
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--connections", type=int, default=46_000)
    options = parser.parse_args()
    missing = [reader for reader in READERS if importlib.util.find_spec(reader) is None]
    if missing:
        sys.exit(f"log_check: {', '.join(missing)} not installed: run scripts/test --version, which installs what the tests use")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        summary = record(folder, build(folder), options.connections)
        path = folder / "run.arrows"
        size = path.stat().st_size
        print(f"recorded: {summary['events']} events, {summary['lost']} lost, {size} bytes, {size / summary['events']:.2f} bytes per event")
        counts = [sys.executable, "-m", "tracer", "query", str(path), "SELECT count(*) FROM events WHERE kind = 'state'", "--format", "csv"]
        states = int(subprocess.run(counts, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()[1])
        text = (folder / "tcpstates").read_bytes()
        lines = text.count(b"\n") - 1
        print(f"state changes: {states} recorded, {lines} lines of tcpstates, {len(text) / max(lines, 1):.0f} bytes each")
        with (folder / "replay.json").open("wb") as out:
            tcptrace("live", "--json", "--input", str(path), stdout=out, stderr=subprocess.DEVNULL).wait()
        live, replayed = snapshots(folder / "live.json"), snapshots(folder / "replay.json")
        print(
            f"replay: {len(replayed)} snapshots, {'the same as' if live == replayed else 'NOT the same as'} the {len(live)} of the live run"
        )
        for reader, program in READERS.items():
            alone = subprocess.run([sys.executable, "-I", "-c", program, str(path)], check=True, capture_output=True, text=True, cwd="/")
            print(f"{reader} alone: {alone.stdout.strip()} rows")


if __name__ == "__main__":
    main()
