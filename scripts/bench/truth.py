#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""
tcptrace's numbers beside the kernel's: `live --json` against `ss -tan` and /proc/net/snmp at each second at rest, before and after a load.

In a network namespace of its own: connections that were open before tcptrace started, then the load, then rest. Exit code 1 where a number
at rest is another one. With --ring-size 4K most records are lost.

Example: sudo .venv/bin/python scripts/bench/truth.py --open 5000 --load 200000
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from scripts.bench.overhead import ROOT, build
from tests.kernel.hidden import Witness
from tracer.kernel.facts import probe

SS_STATES = {
    "ESTAB": "ESTABLISHED",
    "SYN-SENT": "SYN_SENT",
    "SYN-RECV": "SYN_RECV",
    "FIN-WAIT-1": "FIN_WAIT1",
    "FIN-WAIT-2": "FIN_WAIT2",
    "TIME-WAIT": "TIME_WAIT",
    "CLOSE-WAIT": "CLOSE_WAIT",
    "LAST-ACK": "LAST_ACK",
    "LISTEN": "LISTEN",
    "CLOSING": "CLOSING",
}
COUNTERS = ("ActiveOpens", "PassiveOpens", "AttemptFails", "EstabResets", "CurrEstab")


class Namespace:
    def __init__(self) -> None:
        self.name = f"tcptrace-truth-{os.getpid()}"
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        subprocess.run(["ip", "-n", self.name, "link", "set", "lo", "up"], check=True)

    def command(self, *words: str) -> list[str]:
        return ["ip", "netns", "exec", self.name, *words]

    def output(self, *words: str) -> str:
        return subprocess.run(self.command(*words), check=True, capture_output=True, text=True).stdout

    def states(self) -> Counter[str]:
        return Counter(SS_STATES[line.split()[0]] for line in self.output("ss", "-tanH").splitlines())

    def snmp(self) -> dict[str, int]:
        names, values = (line.split()[1:] for line in self.output("cat", "/proc/net/snmp").splitlines() if line.startswith("Tcp:"))
        return dict(zip(names, map(int, values), strict=True))

    def delete(self) -> None:
        subprocess.run(["ip", "netns", "delete", self.name], check=True)


class Live:
    """tcptrace live --json, one snapshot at a time."""

    def __init__(self, netns: str, folder: Path, *options: str) -> None:
        command = [sys.executable, "-m", "tracer", "live", "--json", "--netns", netns, "--summary", str(folder / "summary"), *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)

    def snapshot(self) -> dict:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return json.loads(line) if line else sys.exit("tcptrace has ended")

    def skip_looks(self, looks: int) -> dict:
        """The first snapshot after so many looks at the socket table, each begun from now on: none takes a second."""
        since = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time.time() + 1.5))
        seen: set[str] = set()
        while True:
            snapshot = self.snapshot()
            if snapshot["drift"]["table_time"] > since:
                seen.add(snapshot["drift"]["table_time"])
            if len(seen) == looks:
                return snapshot

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.communicate()


def compare(label: str, snapshot: dict, namespace: Namespace, start: dict[str, int]) -> int:
    """Prints both sides of everything that is not 0; how many differ."""
    theirs, snmp = namespace.states(), namespace.snmp()
    rows = [(name, snapshot["states"].get(name) or 0, theirs[name]) for name in SS_STATES.values()]
    drift = snapshot["drift"]
    for name in COUNTERS:
        ours = drift["counters"][name]["ours"]
        rows.append((name, ours, snmp[name] - (start[name] if name != "CurrEstab" else 0)))
    wrong = sum(a != b for _, a, b in rows)
    shown = "  ".join(f"{name} {a}{'=' if a == b else ' != '}{b if a != b else ''}" for name, a, b in rows if a or b)
    table, lost = drift["table"], sum(snapshot["lost"].values())
    print(
        f"{label:<8} {shown}  | exact {snapshot['exact']} drift {drift['total']} lost {lost} period {drift['period_s']} s"
        f" table {table['ours']}/{table['kernel']} added {table['missing_added']} ghosts {table['ghosts_removed']}",
        flush=True,
    )
    return wrong


def watch(options: argparse.Namespace, namespace: Namespace, folder: Path) -> int:
    connload = str(build(folder))
    held = subprocess.Popen(namespace.command(connload, "-o", "-n", str(options.open)), stderr=subprocess.PIPE, text=True)
    assert held.stderr is not None
    print(held.stderr.readline().strip())
    start = namespace.snmp()
    live = Live(namespace.name, folder, "--ring-size", options.ring_size)
    wrong = 0
    snapshot = live.snapshot()
    for _ in range(options.seconds):
        snapshot = live.snapshot()
        wrong += compare("rest", snapshot, namespace, start)
    command = namespace.command(connload, "-n", str(options.load), "-d", "40", "-c", "mix")
    load = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    while load.poll() is None:
        snapshot = live.snapshot()
        states = {name: count for name, count in snapshot["states"].items() if count}
        print("load    ", states, "exact", snapshot["exact"], "drift", snapshot["drift"]["total"], flush=True)
    assert load.stdout is not None
    print(load.stdout.read().strip())
    # The first look at the table after the load heals it, the second finds it healed.
    snapshot = live.skip_looks(2)
    for _ in range(options.seconds):
        wrong += compare("rest", snapshot, namespace, start)
        snapshot = live.snapshot()
    wrong += snapshot["drift"]["table"]["ours"] != snapshot["drift"]["table"]["kernel"]
    held.send_signal(signal.SIGINT)
    held.wait()
    snapshot = live.skip_looks(2)
    wrong += compare("closed", snapshot, namespace, start)
    wrong += snapshot["drift"]["table"]["ours"] != snapshot["drift"]["table"]["kernel"]
    live.stop()
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--open", type=int, default=5_000)
    parser.add_argument("--load", type=int, default=200_000)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--ring-size", default="8M")
    options = parser.parse_args()
    namespace, witness = Namespace(), Witness(probe().bcc_python or sys.executable)
    witness.hidden()
    with tempfile.TemporaryDirectory() as name:
        try:
            wrong = watch(options, namespace, Path(name))
            print(f"softirqs that the machine hid from all tracepoints meanwhile: {witness.hidden()}")
        finally:
            namespace.delete()
            witness.end()
    print("all equal at rest" if not wrong else f"{wrong} numbers differ")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
