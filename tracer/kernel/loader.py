# SPDX-License-Identifier: Apache-2.0
"""
The loader, parent side: starts the child that compiles and attaches, and takes over its file descriptors.

The programs stay attached for as long as the descriptors are open, and no longer: nothing is pinned, so a crash of this process
detaches everything.
"""

import errno
import os
import re
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from tracer.errors import HostError, ProgramError, TcptraceError
from tracer.kernel.plan import LoadRequest, locked_down
from tracer.kernel.return_probe import ReturnProbe

CHILD = Path(__file__).with_name("loader_child")
#: It takes half a second; an emulated machine has been seen to take 50.
TIMEOUT_S = 120.0
#: What the verifier says of the helper that lockdown takes away, where the mode itself cannot be read; since 6.9 in the second form.
#: Source: kernel/trace/bpf_trace.c, LOCKDOWN_BPF_READ_KERNEL; kernel/bpf/verifier.c, check_helper_call().
MISSING_HELPER = re.compile(r"(?:unknown func|cannot use helper) bpf_probe_read_kernel\b")
#: What BCC says of a map that the kernel refuses. Before d5299b67dd59 ("bpf: Memcg-based memory accounting for bpf maps", v5.11) and its
#: companions maps count against RLIMIT_MEMLOCK, which BCC raises where it may.
REFUSED_MAP = re.compile(r"could not open bpf map: \S+ error: Operation not permitted")
#: The kernel passes at most SCM_MAX_FD = 253 in one message.
MAX_DESCRIPTORS = 253
MAX_REPLY_BYTES = 1 << 18


class Attempt(msgspec.Struct, frozen=True):
    """A candidate that the kernel refused."""

    kind: str
    stage: str
    error: str
    errno: int | None = None


class HookReport(msgspec.Struct, frozen=True):
    """Which candidate of a hook is attached (None: none is), and what was tried before it."""

    hook: str
    kind: str | None
    tried: tuple[Attempt, ...] = ()


class Failure(msgspec.Struct, frozen=True):
    stage: str
    message: str
    errno: int | None = None


class LoadReply(msgspec.Struct, frozen=True):
    fds: tuple[str, ...] = ()
    hooks: tuple[HookReport, ...] = ()
    bcc: str = ""
    return_probe: str | None = None
    error: Failure | None = None


@dataclass(frozen=True, slots=True)
class LoadedPrograms:
    """
    What is attached. Owns the descriptors.

    Attributes:
        descriptors: by name: "events" (the ring), "counters", "program:NAME" and "link:NAME:TARGET"; with a return probe, its own two.
        hooks: one report per hook.
        bcc: the version of BCC that compiled the programs.
        return_probe: where the accept hook is one.
    """

    descriptors: dict[str, int]
    hooks: tuple[HookReport, ...]
    bcc: str
    return_probe: ReturnProbe | None = None

    @property
    def programs(self) -> dict[str, int]:
        """Descriptor by name of the BPF function."""
        prefix = "program:"
        return {name.removeprefix(prefix): fd for name, fd in self.descriptors.items() if name.startswith(prefix)}

    def close(self) -> None:
        """Detaches everything."""
        if self.return_probe is not None:
            self._close([name for name in self.descriptors if name.startswith(("link:", "program:"))])
            self.return_probe.remove()
        self._close(list(self.descriptors))

    def _close(self, names: list[str]) -> None:
        for name in names:
            os.close(self.descriptors.pop(name))


class Loader:
    """
    A loader child at work. Start it as early as possible: it needs most of a second, in which the caller can import and prepare.

    A context manager: leaving it before result() ends the child.
    """

    def __init__(self, python: str, request: LoadRequest, child: Path = CHILD) -> None:
        self._log: BinaryIO = os.fdopen(os.memfd_create("tcptrace-loader-log"), "w+b")
        self._reply, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = self._start([python, "-I", "-B", str(child), str(theirs.fileno())], theirs)
        self._send(request)

    def _start(self, command: list[str], reply: socket.socket) -> subprocess.Popen[bytes]:
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
        try:
            return subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=self._log,
                stderr=self._log,
                pass_fds=[reply.fileno()],
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            self._reply.close()
            self._log.close()
            raise HostError(
                f"cannot run {command[0]}: {error.strerror}", "install Python 3 with BCC: apt-get install python3-bpfcc"
            ) from error

    def _send(self, request: LoadRequest) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(msgspec.json.encode(request))
            self._process.stdin.close()
        except BrokenPipeError:
            pass  # the child is gone already; result() says why

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._reply.close()
        self._log.close()

    def result(self, timeout_s: float = TIMEOUT_S) -> LoadedPrograms:
        """
        Waits for the child and takes over what it attached.

        Raises:
            HostError: this host or this user may not trace, or BCC is not installed.
            ProgramError: a program was not compiled or accepted, or the child broke or hung.
        """
        self._reply.settimeout(timeout_s)
        try:
            data, fds, _, _ = socket.recv_fds(self._reply, MAX_REPLY_BYTES, MAX_DESCRIPTORS)
        except TimeoutError:
            self._process.kill()
            raise ProgramError(
                f"loading the BPF programs took more than {timeout_s:g} s", "try again; the host may be overloaded", self.log()
            ) from None
        if not data:
            raise self._died()
        reply = msgspec.json.decode(data, type=LoadReply)
        if reply.error is not None:
            raise explain(reply.error, self.log())
        return loaded(reply, dict(zip(reply.fds, fds, strict=True)))

    def _died(self) -> TcptraceError:
        code = self._process.wait()
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        advice = "run it with --debug to see what it said; if memory is short, free some"
        return ProgramError(f"the process that loads the BPF programs {how}", advice, self.log())

    def log(self) -> str:
        """What the child, the compiler and the verifier have said so far."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")


def loaded(reply: LoadReply, descriptors: dict[str, int]) -> LoadedPrograms:
    """What the child has attached, by its reply and the descriptors that came with it."""
    probe = None
    if reply.return_probe is not None:
        probe = ReturnProbe(reply.return_probe, descriptors["return_probe:events"], descriptors["return_probe:profile"])
    return LoadedPrograms(descriptors, reply.hooks, reply.bcc, probe)


def explain(failure: Failure, log: str) -> TcptraceError:
    """The child's failure as an error of ours: what it means on this host, and what to do."""
    if failure.stage == "import":
        return HostError(
            f"BCC is not installed ({failure.message})", "install it: apt-get install python3-bpfcc (elsewhere python3-bcc)", log
        )
    if failure.stage == "btf":
        return HostError(failure.message, "use a kernel with CONFIG_DEBUG_INFO_BTF=y", log)
    refused = refusal(failure, log)
    if refused is not None:
        return refused
    if failure.stage == "attach":
        return HostError(f"a hook could not be attached: {failure.message}", "see what this host has: tcptrace doctor", log)
    problem = {"compile": "the BPF programs were not compiled", "load": "a BPF program was not accepted"}.get(
        failure.stage, "the loader failed"
    )
    return ProgramError(f"{problem}: {last_line(log) or failure.message}", "run it with --debug and report what it prints", log)


def refusal(failure: Failure, log: str) -> HostError | None:
    """What to tell whom the kernel does not let trace; None: it has not refused."""
    if failure.stage == "load" and MISSING_HELPER.search(log):
        return locked_down(log)
    if failure.stage == "compile" and REFUSED_MAP.search(log):
        return HostError(
            "the kernel does not let us make BPF maps: before Linux 5.11 they count as locked memory, of which the limit allows too little",
            "raise it: ulimit -l unlimited, LimitMEMLOCK=infinity in a systemd unit, or give the container CAP_SYS_RESOURCE",
            log,
        )
    if failure.stage in ("load", "attach") and failure.errno == errno.EPERM:
        return HostError(
            f"the kernel does not let us trace: {failure.message}",
            "run it as root on the host itself; in a container it needs CAP_BPF and CAP_PERFMON; see: tcptrace doctor",
            log,
        )
    return None


def last_line(log: str) -> str:
    """The most telling line of a compiler's or verifier's log: its first error, else its last line."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if "error:" in line]
    return errors[0] if errors else lines[-1] if lines else ""


def hooks_in_brief(hooks: tuple[HookReport, ...]) -> str:
    """The hooks that may differ between hosts, and those that are missing."""
    named = [f"{report.hook}={report.kind or 'off'}" for report in hooks if report.hook in ("state", "accept")]
    missing = [report.hook for report in hooks if report.hook not in ("state", "accept") and not report.kind]
    return " ".join(named) + (f", without {' '.join(missing)}" if missing else "")


def describe_hooks(hooks: tuple[HookReport, ...]) -> dict[str, Any]:
    """Hook -> kind in use ("off" where none is), for summaries and recordings."""
    return {report.hook: report.kind or "off" for report in hooks}
