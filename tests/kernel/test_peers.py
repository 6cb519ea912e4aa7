# SPDX-License-Identifier: Apache-2.0
"""The same transitions as libbpf-tools' tcpstates prints."""

import contextlib
import re
import signal
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from tests.kernel.conftest import PATIENCE, TIMEOUT_S, require, wait_until

TCPSTATES = Path("/usr/sbin/tcpstates")
CONNECTIONS = 10_000
CHUNK = 1000
#: Connections per second that its per-event output keeps up with.
RATE = 1000


class TcpStates:
    """The peer at work, in a mount namespace with a tracefs, which it needs and this host may not have mounted."""

    tool = TCPSTATES

    def __init__(self, out: Path) -> None:
        self._out = out
        command = f"mountpoint -q /sys/kernel/tracing || mount -t tracefs tracefs /sys/kernel/tracing; exec {self.tool}"
        with out.open("w") as file:
            self.process = subprocess.Popen(["unshare", "--mount", "bash", "-c", command], stdout=file, stderr=subprocess.STDOUT)
        # It prints nothing when it is ready; its programs are in the kernel before its heading, which waits for the first event.
        wait_until(lambda: self._attached() or self.process.poll() is not None, f"{self.tool.name} to attach")

    def _attached(self) -> bool:
        with contextlib.suppress(FileNotFoundError):  # it opens and closes files meanwhile
            return "perf_event" in " ".join(str(link.readlink()) for link in Path(f"/proc/{self.process.pid}/fd").iterdir())
        return False

    def rows(self) -> list[tuple[str, str, str, str]]:
        """(local port, remote port, old, new) of each whole line; a comm may hold spaces, what follows it does not."""
        found = []
        for line in self._out.read_text(errors="replace").splitlines():
            words = line.split()
            if "->" in words[5:-1]:
                arrow = words.index("->")
                found.append((words[arrow - 4], words[arrow - 2], words[arrow - 1], words[arrow + 1]))
        return found

    def lost(self) -> int:
        """Events that it says it has lost, of the whole host."""
        return sum(int(count) for count in re.findall(r"lost (\d+) events", self._out.read_text(errors="replace")))

    def skipped(self) -> int:
        """Calls of its program that the kernel skipped, which counts them since Linux 6.7 (trace_call_bpf)."""
        told = (path.read_text() for path in Path(f"/proc/{self.process.pid}/fdinfo").iterdir())
        return sum(int(count) for text in told for count in re.findall(r"^recursion_misses:\s*(\d+)", text, re.MULTILINE))

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(TIMEOUT_S)


@pytest.fixture
def tcpstates(tmp_path):
    require(TCPSTATES.exists(), "libbpf-tools' tcpstates: apt-get install libbpf-tools")
    peer = TcpStates(tmp_path / "tcpstates")
    yield peer
    peer.process.kill()
    peer.process.wait()


def test_ten_thousand_connections_give_the_same_transitions_as_tcpstates(trace, netns, tcpstates):
    """
    One thread is client and server: with two processes tcpstates misses many transitions and does not count them.

    The kernel skips its program where a softirq interrupts it, on a slow machine even so; see bpf/tcptrace.bpf.c, on_set_state_nested.
    """
    tracer = trace()
    # Ports tell the namespace's traffic from the host's: nothing else uses a server port of this range.
    for chunk in range(1, CONNECTIONS // CHUNK + 1):
        netns.traffic("alone", count=CHUNK, port=20_000 + chunk, rate=RATE)
        wait_until(lambda chunk=chunk: tracer.accepts() == CHUNK * chunk, "tcptrace to write a chunk")
    ports = {str(20_000 + chunk) for chunk in range(1, CONNECTIONS // CHUNK + 1)}
    events = [e for e in tracer.stop() if e["kind"] == "state" and e["dport"]]

    skipped = tcpstates.skipped()
    tcpstates.stop()

    rows = [row for row in tcpstates.rows() if ports & set(row[:2])]
    theirs = Counter(row for row in rows if row[1] != "0")
    unnamed = sum(row[1:] == ("0", "LISTEN", "SYN_RECV") for row in rows)  # before Linux 6.15; ours are named
    ours = Counter((str(e["sport"]), str(e["dport"]), e["old"], e["new"]) for e in events)
    assert tracer.summary()["lost"] == 0
    assert ours.total() == 10 * CONNECTIONS
    assert Counter() == theirs - ours
    assert (ours - theirs).total() <= tcpstates.lost() + skipped + unnamed


TCPLIFE = Path("/usr/sbin/tcplife")


class TcpLife(TcpStates):
    """The other peer; its lines: PID COMM LADDR LPORT RADDR RPORT TX_KB RX_KB MS."""

    tool = TCPLIFE

    def lives(self) -> dict[tuple[int, int], tuple[float, float, float]]:
        """(kB sent, kB received, ms) by local and remote port."""
        words = [line.split() for line in self._out.read_text(errors="replace").splitlines()[1:]]
        return {(int(w[-6]), int(w[-4])): (float(w[-3]), float(w[-2]), float(w[-1])) for w in words if len(w) >= 9}


@pytest.fixture
def tcplife(tmp_path):
    require(TCPLIFE.exists(), "libbpf-tools' tcplife: apt-get install libbpf-tools")
    peer = TcpLife(tmp_path / "tcplife")
    yield peer
    peer.process.kill()
    peer.process.wait()


def test_connections_carry_and_last_what_tcplife_says(start, netns, tcplife):
    """Its counts include SYN and FIN, and it prints hundredths of a kB; ours are what the programs sent."""
    tracer = start("conns", "--format", "json", "--netns", netns.name)
    done = netns.traffic("exchange", sizes=[[17 * i % 9001, 1009 * i % 70_001] for i in range(211)])
    tcplife.stop()
    ours = {(c["sport"], c["dport"]): c for c in tracer.stop() if done["port"] in (c["sport"], c["dport"])}
    theirs = {ends: life for ends, life in tcplife.lives().items() if done["port"] in ends}

    assert 2 * 211 == len(ours)
    assert theirs.keys() <= ours.keys()
    # What it misses, it misses where a softirq interrupts its program; see on_set_state_nested.
    assert len(theirs) >= 400
    differences = []
    for ends, (sent, received, ms) in theirs.items():
        connection = ours[ends]
        assert abs(connection["bytes_sent"] / 1024 - sent) < 0.0075, connection
        assert abs(connection["bytes_received"] / 1024 - received) < 0.0075, connection
        differences.append(abs(connection["duration_ms"] - ms))
    # Each of the two reads its own clock, at both ends of a life, and a virtual machine may stop in between.
    assert sorted(differences)[len(differences) * 98 // 100] < PATIENCE, sorted(differences)
