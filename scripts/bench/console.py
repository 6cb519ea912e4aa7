#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""
What the console costs, on a terminal of 120x40: at rest, per picture with many connections in the table, and what is lost under load.

In a network namespace of its own. The cost of a picture is what the same page takes more at five a second than at one, by picture.

Example: sudo .venv/bin/python scripts/bench/console.py --open 20000
"""

import argparse
import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from scripts.bench.overhead import ROOT, build, cpu_s
from scripts.bench.truth import Namespace

COLUMNS, LINES = 120, 40
#: The keys that lead to a page.
PAGES = {"overview": b"1", "connections": b"2", "events": b"3"}


class Console:
    """tcptrace live on a terminal whose reader never stops."""

    def __init__(self, namespace: str, folder: Path, refresh_s: float, page: str = "overview") -> None:
        self._summary, errors = folder / "summary", folder / "stderr"
        options = ["--netns", namespace, "--refresh", str(refresh_s), "--summary", str(self._summary)]
        self.pid, own = pty.fork()
        if not self.pid:
            os.chdir(ROOT)
            os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT, 0o600), 2)
            os.execve(sys.executable, [sys.executable, "-m", "tracer", "live", *options], os.environ | {"TERM": "xterm-256color"})
        fcntl.ioctl(own, termios.TIOCSWINSZ, struct.pack("4H", LINES, COLUMNS, 0, 0))
        self._terminal = own
        self.drawn = 0
        threading.Thread(target=self._read, daemon=True).start()
        while not self.drawn:
            if os.waitpid(self.pid, os.WNOHANG)[0]:
                sys.exit(errors.read_text())
            time.sleep(0.02)
        os.write(own, PAGES[page])

    def _read(self) -> None:
        while True:
            try:
                self.drawn += len(os.read(self._terminal, 65536))
            except OSError:
                return

    def share(self, seconds: float) -> float:
        """The share of one core that all of it takes for so long."""
        before, since = cpu_s(self.pid), time.monotonic()
        time.sleep(seconds)
        return (cpu_s(self.pid) - before) / (time.monotonic() - since)

    def stop(self) -> dict[str, float]:
        os.kill(self.pid, signal.SIGINT)
        os.waitpid(self.pid, 0)
        os.close(self._terminal)
        summary: dict[str, float] = json.loads(self._summary.read_text())
        return summary


def share_of(namespace: str, folder: Path, refresh_s: float, page: str, options: argparse.Namespace) -> float:
    console = Console(namespace, folder, refresh_s, page)
    time.sleep(options.settle)
    share = console.share(options.seconds)
    console.stop()
    return share


def measure(options: argparse.Namespace, namespace: str, folder: Path) -> None:
    connload, inside = str(build(folder)), ["ip", "netns", "exec", namespace]
    print(f"at rest, no connection: {100 * share_of(namespace, folder, 1, 'overview', options):.2f} % of a core", flush=True)
    # Each connection is two sockets, and few processes may have more than 20,000 descriptors.
    command = [*inside, connload, "-o", "-n", str(min(options.open // 2, 5_000))]
    held = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(max(options.open // 10_000, 1))]
    for process in held:
        assert process.stderr is not None
        process.stderr.readline()
    for page in PAGES:
        slow, fast = (share_of(namespace, folder, refresh_s, page, options) for refresh_s in (1, 0.2))
        picture_ms = (fast - slow) / 4 * 1000
        print(f"{options.open} sockets, {page}: {100 * slow:.2f} % at one a second, {picture_ms:.1f} ms a picture", flush=True)
    console = Console(namespace, folder, 0.2)
    load = subprocess.run([*inside, connload, "-j", "-d", "40", "-n", str(options.load)], check=True, capture_output=True, text=True)
    time.sleep(1)
    summary = console.stop()
    rate = json.loads(load.stdout)["rate_per_s"]
    print(f"load, five pictures a second: {rate:.0f} connections/s, {summary['events']} events, {summary['lost']} lost")
    for process in held:
        process.send_signal(signal.SIGINT)
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--open", type=int, default=20_000, help="sockets")
    parser.add_argument("--load", type=int, default=200_000, help="connections")
    parser.add_argument("--settle", type=float, default=10, help="seconds before measuring")
    parser.add_argument("--seconds", type=float, default=20)
    options = parser.parse_args()
    namespace = Namespace()
    with tempfile.TemporaryDirectory() as name:
        try:
            measure(options, namespace.name, Path(name))
        finally:
            namespace.delete()


if __name__ == "__main__":
    assert os.geteuid() == 0, "needs root"
    main()
