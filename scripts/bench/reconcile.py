#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""
What reconciliation costs with many open connections: time until the view is complete, share of a core, and how far the ring is behind.

In a network namespace of its own; the second figure of cost is what the whole of tcptrace takes at rest, pictures included.

Example: sudo .venv/bin/python scripts/bench/reconcile.py --open 20000
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from scripts.bench.overhead import build, cpu_s
from scripts.bench.truth import Live, Namespace


def measure(options: argparse.Namespace, namespace: Namespace, folder: Path) -> dict[str, float]:
    connload = str(build(folder))
    # Each connection is two sockets, and few processes may have more than 20,000 descriptors.
    command = namespace.command(connload, "-o", "-n", str(min(options.open // 2, 5_000)))
    held = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(max(options.open // 10_000, 1))]
    for process in held:
        assert process.stderr is not None
        print(process.stderr.readline().strip(), flush=True)
    live = Live(namespace.name, folder)
    first = live.snapshot()
    while not (first["drift"] or {}).get("complete_s"):
        first = live.snapshot()
    for _ in range(4):
        live.snapshot()
    before, since = cpu_s(live.process.pid), time.monotonic()
    costs = [live.snapshot()["drift"]["cost_ratio"] for _ in range(options.seconds)]
    used = (cpu_s(live.process.pid) - before) / (time.monotonic() - since)
    load = subprocess.run(
        namespace.command(connload, "-j", "-d", "40", "-n", str(options.load)), check=True, capture_output=True, text=True
    )
    busy = live.snapshot()
    live.stop()
    for process in held:
        process.send_signal(signal.SIGINT)
        process.wait()
    summary = json.loads((folder / "summary").read_text())
    owned = sum(process["open"] for process in first["top"]["processes"])
    return {
        "sockets": first["states"]["ESTABLISHED"],
        "owned": owned,
        "complete_s": first["drift"]["complete_s"],
        "reconciliation_share": max(costs),
        "period_s": busy["drift"]["period_s"],
        "share_at_rest": round(used, 4),
        "load_per_s": json.loads(load.stdout)["rate_per_s"],
        "lost_under_load": summary["lost"],
        "ring_fill": round(summary["ring_high_bytes"] / summary["ring_bytes"], 4),
        "max_rss_mb": summary["max_rss_bytes"] / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--open", type=int, default=20_000, help="sockets")
    parser.add_argument("--load", type=int, default=200_000, help="connections")
    parser.add_argument("--seconds", type=int, default=10)
    options = parser.parse_args()
    namespace = Namespace()
    with tempfile.TemporaryDirectory() as name:
        try:
            figures = measure(options, namespace, Path(name))
        finally:
            namespace.delete()
    print("  ".join(f"{key} {value:g}" for key, value in figures.items()))


if __name__ == "__main__":
    assert os.geteuid() == 0, "needs root"
    main()
