# SPDX-License-Identifier: Apache-2.0
"""
One guest: an emulated machine with another kernel on this machine's root file system, which it cannot change.

What goes in and comes out lies in one shared folder: the clone as an archive (thousands of small files take minutes over 9p, and the
tests want to write), another of the programs that it uses, and afterwards what was printed, the results, the kernel's log and the exit
code.
"""

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from kernels import ROOT, Host, Kernel, results_of
from memory import archive_programs

#: Exit code of timeout(1), by which pytest is ended in a guest.
TIMED_OUT = 124
INSIDE = Path(__file__).with_name("inside")
#: What the tests do not need and the guest would have to carry.
LEFT_OUT = frozenset(
    {
        *(".git", ".mypy_cache", ".ruff_cache", ".hypothesis"),
        *("mypy", "mypyc", "ruff", "pip", "setuptools", "ast_serialize"),
        *("polars", "_polars_runtime_32", "duckdb", "_duckdb.cpython-311-x86_64-linux-gnu.so"),
    }
)
LEFT_OUT_ENDS = ("__mypyc.cpython-311-x86_64-linux-gnu.so", "/numpy/f2py", "/pyarrow/include", "/pyarrow/tests")
#: What makes an emulated CPU faster. Its string instructions (erms; flag 112 is rep_good in arch/x86/include/asm/cpufeatures.h) go
#: byte by byte or word by word, each a jump: without them kernel and libc copy in loops that are translated once. Page tables of five
#: levels take one look more. Its counter of cycles is the host's, the same on each CPU; without that word the kernel reads the time
#: from an emulated device. With libraries at the same addresses in each process, what was translated of them is found again.
EMULATED_CPU = "-cpu max,-erms,-la57"
EMULATED_KERNEL = ("clearcpuid=112", "tsc=reliable", "norandmaps")


@dataclass(frozen=True)
class Guest:
    """
    What to boot, and what to do there.

    Attributes:
        pytest_arguments: of the test run, which is ended after *time_limit_s* seconds.
        kvm: not emulated.
        bcc: the suite that BCC comes from, and where it lies unpacked (scripts/bcc/roots.py); None: this machine's own.
    """

    kernel: Kernel
    image: Path
    host: Host
    pytest_arguments: list[str]
    time_limit_s: float
    kvm: bool = False
    bcc: tuple[str, Path] | None = None

    def results(self, lab: Path) -> Path:
        return results_of(lab, self.kernel, self.host.name, self.bcc[0] if self.bcc else "")


@dataclass(frozen=True)
class Outcome:
    """What a guest left: exit_code is None where it did not come to its end in time."""

    kernel: Kernel
    exit_code: int | None
    results: Path


def archive_clone(target: Path) -> None:
    """The working tree with its virtual environment, without what the tests do not need."""

    def chosen(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        return None if Path(entry.name).name in LEFT_OUT or entry.name.endswith(LEFT_OUT_ENDS) else entry

    with tarfile.open(target, "w") as archive:
        archive.add(ROOT, ".", filter=chosen)


def command(lab: Path, guest: Guest, share: Path) -> list[str]:
    """What boots the guest. Without mitigations, which cost an emulated CPU half its time."""
    words = shlex.join(("bash", str(share / "inside"), str(share), *guest.pytest_arguments))
    emulation = [] if guest.kvm else ["--disable-kvm", f"--qemu-opts={EMULATED_CPU}"]
    append = ["mitigations=off", *(() if guest.kvm else EMULATED_KERNEL), guest.host.append]
    return [
        *(str(lab / "venv" / "bin" / "vng"), "--verbose", "--force-9p", *emulation),
        *("--run", str(guest.image), "--cpus", "2", "--memory", "3G", "--append", " ".join(append).strip()),
        *("--cwd", "/", f"--rwdir={share}", "--exec", words),
    ]


def archive_bcc(root: Path, target: Path) -> None:
    with tarfile.open(target, "w") as archive:
        archive.add(root, ".")


def run_guest(guest: Guest, lab: Path) -> Outcome:
    """Boots the kernel, runs the tests in it, and ends it when its time is over."""
    results = guest.results(lab)
    shutil.rmtree(results, ignore_errors=True)
    results.mkdir(parents=True)
    # Below /tmp, which a guest sees as the host's.
    with tempfile.TemporaryDirectory(prefix="tcptrace-vmtest-", dir="/tmp") as folder:
        share = Path(folder)
        archive_clone(share / "clone.tar")
        archive_programs(share / "memory.tar", share / "memory.txt")
        if guest.bcc:
            archive_bcc(guest.bcc[1], share / "bcc.tar")
        shutil.copy(INSIDE, share / "inside")
        (share / "hooks.json").write_text(json.dumps(guest.kernel.hooks))
        (share / "host").write_text(guest.host.name)
        (share / "deadline").write_text(str(int(time.time() + guest.time_limit_s)))
        with (results / "console.log").open("wb") as console:
            boot(command(lab, guest, share), lab, console.fileno(), guest.time_limit_s, share / "output.txt")
        for name in ("exit-code", "output.txt", "results.xml", "doctor.json", "kernel.log"):
            if (share / name).exists():
                shutil.copy(share / name, results / name)
    return Outcome(guest.kernel, exit_code_in(results), results)


def exit_code_in(results: Path) -> int | None:
    """What pytest ended with; None where it did not come to its end in time and nothing had failed until then."""
    code = results / "exit-code"
    ended = int(code.read_text()) if code.exists() and code.read_text().strip() else None
    return None if ended == TIMED_OUT and not has_failures(results / "results.xml") else ended


def has_failures(results: Path) -> bool:
    """Whether any test of a JUnit file failed."""
    return results.exists() and any(case.find(bad) is not None for case in cases_in(results) for bad in ("failure", "error"))


def cases_in(results: Path) -> list[ElementTree.Element]:
    return list(ElementTree.parse(results).iter("testcase"))


def boot(words: list[str], lab: Path, console: int, time_limit_s: float, output: Path) -> None:
    """
    Runs the emulator in a session of its own, so that all of it can be ended at once, whatever it has started.

    Prints meanwhile what the guest writes to *output*.
    """
    environment = {**os.environ, "PATH": f"{lab / 'venv' / 'bin'}:{os.environ['PATH']}"}
    process: subprocess.Popen[bytes] | None = None
    deadline, printed = time.monotonic() + time_limit_s, 0
    try:
        with later(signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=console, stderr=console, cwd=lab, env=environment, start_new_session=True
            )
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
            printed += print_from(output, printed)
    finally:
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    print_from(output, printed)


@contextlib.contextmanager
def later(*numbers: int) -> Iterator[None]:
    """Keeps signals until the end of the block: one that came while a process is started would leave it to nobody."""
    came: list[int] = []
    handlers = [(number, signal.signal(number, lambda number, _: came.append(number))) for number in numbers]
    try:
        yield
    finally:
        for number, handler in handlers:
            signal.signal(number, handler)
        for number in came:
            signal.raise_signal(number)


def print_from(path: Path, position: int) -> int:
    """Prints what a file, if it is there, has from a position on; how many bytes that is."""
    if not path.exists():
        return 0
    with path.open("rb") as file:
        file.seek(position)
        more = file.read()
    sys.stdout.buffer.write(more)
    sys.stdout.flush()
    return len(more)
