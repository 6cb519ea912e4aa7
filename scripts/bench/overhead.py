#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""
What watching costs the watched host, and what it costs us: connload alone and under tcptrace, in turn.

Rounds are interleaved, since the speed of a machine drifts; figures are medians of rounds and ratios within a round.

Example: sudo .venv/bin/python scripts/bench/overhead.py --rounds 7 --command "events --format csv" --peer tcpstates
"""

import argparse
import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PEERS = {"tcpstates": ["/usr/sbin/tcpstates"], "tcpstates-bpfcc": ["/usr/sbin/tcpstates-bpfcc"], "tcplife": ["/usr/sbin/tcplife"]}

#: Until what is done once is done, in seconds.
SETTLE_S = 1.5


def build(folder: Path) -> Path:
    binary = folder / "connload"
    subprocess.run(["gcc", "-O2", "-o", str(binary), str(ROOT / "scripts/bench/connload.c")], check=True)
    return binary


def load(binary: Path, connections: int) -> dict[str, float]:
    # A destination for each thousand: what TIME_WAIT holds then never makes the search for a port slow.
    command = [str(binary), "-j", "-n", str(connections), "-d", str(max(connections // 1000, 1))]
    result: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return result


def under_tcptrace(binary: Path, folder: Path, options: argparse.Namespace) -> tuple[dict[str, float], dict[str, float]]:
    summary, errors = folder / "summary", folder / "stderr"
    command = [sys.executable, "-m", "tracer", *shlex.split(options.command), "--summary", str(summary)]
    with (folder / "out").open("w") as out, errors.open("w") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
        while "tcptrace: capturing" not in errors.read_text():
            if process.poll() is not None:
                sys.exit(errors.read_text())
            time.sleep(0.02)
        time.sleep(SETTLE_S)
        idle = cpu_s(process.pid)
        result = load(binary, options.connections)
        process.send_signal(signal.SIGINT)
        process.wait()
    own: dict[str, float] = json.loads(summary.read_text())
    own["us_per_event"] = (own["cpu_s"] - idle) / max(own["events"], 1) * 1e6
    return result, own


def under_peer(binary: Path, folder: Path, options: argparse.Namespace) -> tuple[dict[str, float], float]:
    mount = "mountpoint -q /sys/kernel/tracing || mount -t tracefs tracefs /sys/kernel/tracing; exec "
    with (folder / "peer").open("w") as out:
        command = ["unshare", "--mount", "bash", "-c", mount + shlex.join(PEERS[options.peer])]
        process = subprocess.Popen(command, stdout=out, stderr=out)
        time.sleep(5 if "bpfcc" in options.peer else SETTLE_S)
        idle = cpu_s(process.pid)
        result = load(binary, options.connections)
        time.sleep(0.5)
        used = cpu_s(process.pid) - idle
        process.send_signal(signal.SIGINT)
        process.wait()
    return result, used / (options.connections * 10) * 1e6


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--connections", type=int, default=60_000)
    parser.add_argument("--command", default="events --format csv")
    parser.add_argument("--peer", choices=PEERS)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        binary = build(folder)
        for number in range(options.rounds):
            alone = load(binary, options.connections)
            traced, own = under_tcptrace(binary, folder, options)
            row = {
                "untraced_per_s": alone["rate_per_s"],
                "traced_ratio": traced["rate_per_s"] / alone["rate_per_s"],
                "events": own["events"],
                "lost": own["lost"],
                "us_per_event": own["us_per_event"],
                "startup_s": own["startup_s"],
                "rss_mb": own["max_rss_bytes"] / 1e6,
            }
            if options.peer:
                watched, per_event = under_peer(binary, folder, options)
                row["peer_ratio"] = watched["rate_per_s"] / alone["rate_per_s"]
                row["peer_us_per_event"] = per_event
            rows.append(row)
            print(f"round {number + 1}: " + "  ".join(f"{k} {v:.3g}" if v < 1000 else f"{k} {v:.0f}" for k, v in row.items()), flush=True)
    print("median:  " + "  ".join(f"{key} {statistics.median(row[key] for row in rows):.4g}" for key in rows[0]))


if __name__ == "__main__":
    main()
