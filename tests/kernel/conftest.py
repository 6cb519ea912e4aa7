# SPDX-License-Identifier: Apache-2.0
"""
What the kernel tests share: a network namespace of their own, tcptrace as a process, and traffic.

They need root and a kernel that runs BPF. Elsewhere they are skipped; with TCPTRACE_REQUIRE_KERNEL=1 that is a failure.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.hidden import Witness
from tracer.kernel.facts import probe

ROOT = Path(__file__).resolve().parents[2]
TRAFFIC = Path(__file__).with_name("traffic.py")
#: An emulated machine (scripts/vmtest) is some twenty times slower.
PATIENCE = float(os.environ.get("TCPTRACE_TEST_PATIENCE", "1"))
TIMEOUT_S = 20.0 * PATIENCE


def require(available: bool, what: str) -> None:
    """Skips a test that lacks something; where the machine is known to have it, that is a failure."""
    if not available:
        (pytest.fail if os.environ.get("TCPTRACE_REQUIRE_KERNEL") == "1" else pytest.skip)(f"needs {what}")


@pytest.fixture(autouse=True, scope="session")
def _kernel_is_able() -> None:
    require(os.geteuid() == 0, "root; run: sudo scripts/test")
    require(Path("/sys/kernel/btf/vmlinux").exists(), "a kernel with BTF")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves the tests of the host that scripts/vmtest has booted, or of one that refuses nothing."""
    here = os.environ.get("TCPTRACE_HOST", "")
    marks = {item: item.get_closest_marker("host") for item in items if Path(__file__).parent in item.path.parents}
    elsewhere = [item for item, mark in marks.items() if here != (mark.args[0] if mark else "")]
    config.hook.pytest_deselected(items=elsewhere)
    items[:] = [item for item in items if item not in elsewhere]


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    """Waits for a condition, not for a time; the limit only ends a test that would never end."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.01 * PATIENCE)
    raise AssertionError(f"waited {TIMEOUT_S:g} s in vain for {what}")


class HiddenSoftirqError(Exception):
    """
    A test failed while the machine hid a softirq of the network or of timers from all tracepoints, so that no exact count can be expected.

    Raised instead of the failure, and the test is run again. Seen in a virtual machine one of whose processes hits no tracepoint at
    all, with the softirqs that happen to interrupt it (README, "What the numbers mean").
    """


@pytest.fixture(scope="session")
def witness(_kernel_is_able: None) -> Iterator[Witness]:
    python = probe().bcc_python
    require(python is not None, "BCC")
    assert python is not None
    watching = Witness(python)
    watching.hidden()
    yield watching
    watching.end()


@pytest.fixture(autouse=True)
def _hidden_softirqs(request: pytest.FixtureRequest, witness: Witness) -> None:
    request.node.stash[HIDDEN] = (witness, witness.hidden())


HIDDEN = pytest.StashKey[tuple[Witness, int]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """A failure of a test during which the machine hid softirqs is no failure of what is tested."""
    try:
        return (yield)
    except AssertionError as error:
        watching, before = item.stash[HIDDEN]
        hidden = watching.hidden() - before
        if hidden > 0:
            raise HiddenSoftirqError(f"no tracepoint told of {hidden} softirqs") from error
        raise


@contextlib.contextmanager
def on_one_cpu() -> Iterator[None]:
    """What is started meanwhile has one CPU: no softirq of another one comes within a program, which then runs alike in every capture."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class SkippedProgramError(Exception):
    """
    The kernel skipped a program, and tcptrace has counted it: a true loss of one event in some 100,000, so no exact count can be expected.

    Raised instead of a result, and the test is run again; test_loss.py has the test of the accounting itself.
    """


class Namespace:
    """A network namespace with its loopback up; what runs in it sees no traffic but the test's."""

    def __init__(self) -> None:
        self.name = f"tcptrace-test-{os.getpid()}-{time.monotonic_ns() % 10**9}"
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        subprocess.run(["ip", "-n", self.name, "link", "set", "lo", "up"], check=True)

    @property
    def inode(self) -> int:
        return Path("/run/netns", self.name).stat().st_ino

    def command(self, *words: str) -> list[str]:
        return ["ip", "netns", "exec", self.name, *words]

    def run(self, *words: str) -> str:
        return subprocess.run(self.command(*words), check=True, capture_output=True, text=True).stdout

    def traffic(self, scenario: str, **arguments: Any) -> dict[str, Any]:
        """Runs a scenario of traffic.py to its end; what it reports."""
        command = self.command(sys.executable, str(TRAFFIC), scenario, json.dumps(arguments))
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=3 * TIMEOUT_S)
        assert done.returncode == 0, f"{scenario} failed: {done.stderr}"
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    def snmp(self) -> dict[str, int]:
        """The Tcp counters of /proc/net/snmp."""
        lines = [line.split() for line in self.run("cat", "/proc/net/snmp").splitlines() if line.startswith("Tcp:")]
        return dict(zip(lines[0][1:], map(int, lines[1][1:]), strict=True))

    def sysctl(self, name: str, value: str) -> None:
        """Sets a sysctl of this namespace, which goes with it."""
        self.run("sysctl", "-qw", f"{name}={value}")

    def delete(self) -> None:
        subprocess.run(["ip", "netns", "delete", self.name], check=True)


class Tracer:
    """tcptrace as its user runs it; started when it says that it captures."""

    def __init__(self, folder: Path, *arguments: str, prefix: list[str] | None = None) -> None:
        self._out, self._err = folder / "out", folder / "err"
        self._summary = folder / "summary"
        command = [*(prefix or []), sys.executable, "-m", "tracer", *arguments, "--summary", str(self._summary)]
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(command, stdout=out, stderr=err, cwd=ROOT)
        wait_until(lambda: "tcptrace: capturing" in self.stderr or self.process.poll() is not None, "tcptrace to capture")
        assert self.process.poll() is None, self.stderr

    @property
    def stderr(self) -> str:
        return self._err.read_text()

    @property
    def stdout(self) -> str:
        return self._out.read_text()

    def events(self) -> list[dict[str, Any]]:
        """What has been written so far, whole lines only."""
        return [json.loads(line) for line in self.stdout.splitlines(keepends=True) if line.endswith("\n")]

    def accepts(self) -> int:
        """Accept events written so far."""
        return self.stdout.count('"kind":"accept"')

    def stop(self, number: int = signal.SIGINT) -> list[dict[str, Any]]:
        """Ends it in good order; all its events, if they are JSON and none was skipped."""
        self.end(number)
        skipped = self.summary()["lost_by_reason"].get("reentered", 0)
        if skipped:
            raise SkippedProgramError(f"{skipped} events skipped")
        return self.events()

    def end(self, number: int = signal.SIGINT) -> None:
        if self.process.poll() is None:
            self.process.send_signal(number)
        assert self.process.wait(TIMEOUT_S) == 0, self.stderr

    def summary(self) -> dict[str, Any]:
        result: dict[str, Any] = json.loads(self._summary.read_text())
        return result

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def netns() -> Iterator[Namespace]:
    """A network namespace of the test's own."""
    namespace = Namespace()
    yield namespace
    namespace.delete()


@pytest.fixture
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Tracer]]:
    """Starts tcptrace with arguments; ended with the test."""
    started: list[Tracer] = []

    def start_one(*arguments: str, prefix: list[str] | None = None) -> Tracer:
        tracer = Tracer(tmp_path_factory.mktemp("tcptrace"), *arguments, prefix=prefix)
        started.append(tracer)
        return tracer

    yield start_one
    for tracer in started:
        tracer.kill()


@pytest.fixture
def trace(start: Callable[..., Tracer], netns: Namespace) -> Callable[..., Tracer]:
    """Starts `tcptrace events --format json` on the test's own namespace."""
    return lambda *arguments: start("events", "--format", "json", "--netns", netns.name, *arguments)
