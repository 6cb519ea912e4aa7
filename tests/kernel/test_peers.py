# SPDX-License-Identifier: Apache-2.0
"""The same transitions as libbpf-tools' tcpstates prints."""

import os
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from tests.kernel.conftest import wait_until

TCPSTATES = Path("/usr/sbin/tcpstates")
CONNECTIONS = 10_000
CHUNK = 500


class TcpStates:
    """The peer at work, in a mount namespace with a tracefs, which it needs and this host may not have mounted."""

    def __init__(self, out: Path) -> None:
        self._out = out
        command = f"mountpoint -q /sys/kernel/tracing || mount -t tracefs tracefs /sys/kernel/tracing; exec stdbuf -oL {TCPSTATES}"
        with out.open("w") as file:
            self.process = subprocess.Popen(["unshare", "--mount", "bash", "-c", command], stdout=file, stderr=subprocess.STDOUT)

    def rows(self) -> list[tuple[str, str, str, str]]:
        """(local port, remote port, old, new) of each whole line; a comm may hold spaces, what follows it does not."""
        found = []
        for line in self._out.read_text(errors="replace").splitlines():
            words = line.split()
            if "->" in words[5:-1]:
                arrow = words.index("->")
                found.append((words[arrow - 4], words[arrow - 2], words[arrow - 1], words[arrow + 1]))
        return found

    def lost(self) -> bool:
        return "lost" in self._out.read_text(errors="replace")


@pytest.fixture
def tcpstates(tmp_path):
    if not TCPSTATES.exists():
        reason = "needs libbpf-tools' tcpstates: apt-get install libbpf-tools"
        if os.environ.get("TCPTRACE_REQUIRE_KERNEL") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    peer = TcpStates(tmp_path / "tcpstates")
    yield peer
    peer.process.kill()
    peer.process.wait()


def test_ten_thousand_connections_give_the_same_transitions_as_tcpstates(trace, netns, tcpstates):
    tracer = trace()
    # Ports tell the namespace's traffic from the host's: nothing else uses a server port of this range.
    for chunk in range(1, CONNECTIONS // CHUNK + 1):
        netns.traffic("pairs", count=CHUNK, port=20_000 + chunk)
        wait_until(lambda chunk=chunk: tracer.accepts() == CHUNK * chunk, "tcptrace to write a chunk")
    ports = {str(20_000 + chunk) for chunk in range(1, CONNECTIONS // CHUNK + 1)}
    events = [e for e in tracer.stop() if e["kind"] == "state" and e["dport"]]

    def theirs() -> Counter[tuple[str, str, str, str]]:
        return Counter(row for row in tcpstates.rows() if ports & set(row[:2]) and row[1] != "0")

    ours = Counter((str(e["sport"]), str(e["dport"]), e["old"], e["new"]) for e in events)
    assert 0 == tracer.summary()["lost"]
    assert 10 * CONNECTIONS == ours.total()
    wait_until(lambda: theirs().total() >= ours.total() or tcpstates.lost(), "tcpstates to print everything")
    assert not tcpstates.lost(), "tcpstates itself lost events: its output proves nothing"
    assert ours == theirs()
