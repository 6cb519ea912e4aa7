#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""
tcptrace conns beside libbpf-tools' tcplife: nginx with curl and wrk, in a network namespace of its own.

Tells whether both saw the same connections, how far bytes and durations differ, and whose owners are right: a server's end belongs to
nginx, a client's to curl or wrk.

Needs root and Debian's libbpf-tools, nginx-light, wrk and curl. Example: sudo .venv/bin/python scripts/bench/tcplife.py
"""

import argparse
import csv
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PORT = 8080
SIZES = (0, 1, 100, 5_000, 70_000, 1_000_000)
NGINX = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error;
events {{ worker_connections 1024; }}
http {{ access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s; server {{ listen {port}; root {folder}; }} }}
"""


class Namespace:
    def __init__(self) -> None:
        self.name = f"tcptrace-bench-{os.getpid()}"

    def __enter__(self) -> "Namespace":
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        subprocess.run(["ip", "-n", self.name, "link", "set", "lo", "up"], check=True)
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["ip", "netns", "delete", self.name], check=True)

    def inside(self, *command: str) -> list[str]:
        return ["ip", "netns", "exec", self.name, *command]

    def run(self, *command: str) -> None:
        subprocess.run(self.inside(*command), check=True, stdout=subprocess.DEVNULL)

    def port_listens(self) -> bool:
        shown = subprocess.run(self.inside("ss", "-Hltn", f"sport = :{PORT}"), check=True, capture_output=True, text=True).stdout
        return bool(shown.strip())


def start_nginx(namespace: Namespace, folder: Path) -> subprocess.Popen[bytes]:
    for size in SIZES:
        (folder / f"size{size}").write_bytes(b"x" * size)
    folder.chmod(0o755)
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, port=PORT))
    server = subprocess.Popen(namespace.inside("nginx", "-c", str(config)))
    while not namespace.port_listens():
        time.sleep(0.05)
    return server


def start_tracers(namespace: Namespace, folder: Path) -> list[subprocess.Popen[bytes]]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tracer", "conns", "--format", "csv", "--netns", namespace.name]
    with (folder / "ours").open("wb") as out, (folder / "errors").open("wb") as errors:
        ours = subprocess.Popen(command, stdout=out, stderr=errors, cwd=ROOT, env=environment)
    mount = "mountpoint -q /sys/kernel/tracing || mount -t tracefs tracefs /sys/kernel/tracing; exec /usr/sbin/tcplife"
    with (folder / "theirs").open("wb") as out:
        theirs = subprocess.Popen(["unshare", "--mount", "sh", "-c", mount], stdout=out)
    while "tcptrace: capturing" not in (folder / "errors").read_text():
        time.sleep(0.05)
    time.sleep(2)  # tcplife does not say when it is ready
    return [ours, theirs]


def traffic(namespace: Namespace, seconds: int) -> None:
    url = f"http://127.0.0.1:{PORT}"
    for i in range(200):
        namespace.run("curl", "-s", "-o", "/dev/null", f"{url}/size{SIZES[i % len(SIZES)]}")
    for size in SIZES:
        namespace.run("wrk", "-t", "2", "-c", "20", "-d", f"{seconds}s", "-H", "Connection: close", f"{url}/size{size}")


Life = dict[str, float | str]


def our_lives(path: Path) -> dict[tuple[int, int], list[Life]]:
    lives = defaultdict(list)
    with path.open() as file:
        for row in csv.DictReader(file):
            ends = (int(row["sport"]), int(row["dport"]))
            life = {"comm": row["comm"], "sent": int(row["bytes_sent"]), "received": int(row["bytes_received"])}
            lives[ends].append(life | {"ms": float(row["duration_ms"] or -1)})
    return lives


def their_lives(path: Path) -> dict[tuple[int, int], list[Life]]:
    lives = defaultdict(list)
    for line in path.read_text(errors="replace").splitlines()[1:]:
        words = line.split()
        if len(words) >= 9 and str(PORT) in (words[-6], words[-4]):
            life = {"comm": " ".join(words[1:-7]), "sent": float(words[-3]) * 1024, "received": float(words[-2]) * 1024}
            lives[int(words[-6]), int(words[-4])].append(life | {"ms": float(words[-1])})
    return lives


def compare(ours: dict[tuple[int, int], list[Life]], theirs: dict[tuple[int, int], list[Life]]) -> None:
    ends = ours.keys() | theirs.keys()
    differing = [e for e in ends if len(ours.get(e, [])) != len(theirs.get(e, []))]
    pairs = [(e, a, b) for e in ends if e not in differing for a, b in zip(ours[e], theirs[e], strict=True)]
    print(f"ends of connections: ours {sum(map(len, ours.values()))}, tcplife's {sum(map(len, theirs.values()))}")
    print(f"port pairs whose number of connections differs: {len(differing)}")
    for name in ("sent", "received"):
        print(f"bytes {name}, largest difference: {max(abs(a[name] - b[name]) for _, a, b in pairs):.1f}")
    print(f"duration, largest difference: {max(abs(a['ms'] - b['ms']) for _, a, b in pairs):.3f} ms")
    print("owner of a server's end, ours:      ", dict(Counter(a["comm"] for e, a, _ in pairs if e[0] == PORT)))
    print("owner of a server's end, tcplife's: ", dict(Counter(b["comm"] for e, _, b in pairs if e[0] == PORT)))
    print("owner of a client's end, ours:      ", dict(Counter(a["comm"] for e, a, _ in pairs if e[1] == PORT)))
    print("owner of a client's end, tcplife's: ", dict(Counter(b["comm"] for e, _, b in pairs if e[1] == PORT)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--seconds", type=int, default=1, help="of wrk, for each size")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, Namespace() as namespace:
        folder = Path(name)
        server = start_nginx(namespace, folder)
        tracers = start_tracers(namespace, folder)
        try:
            traffic(namespace, options.seconds)
            time.sleep(1)
        finally:
            for process in (*tracers, server):
                process.send_signal(signal.SIGINT)
                process.wait()
        print((folder / "errors").read_text().strip())
        compare(our_lives(folder / "ours"), their_lives(folder / "theirs"))


if __name__ == "__main__":
    main()
