# SPDX-License-Identifier: Apache-2.0
"""tcptrace doctor: what this host can do, which hooks will be used, and what to install."""

from typing import Annotated, Any

import msgspec
import typer

from tracer import __version__
from tracer.errors import TcptraceError
from tracer.kernel.capture import begin
from tracer.kernel.facts import HostFacts, probe
from tracer.kernel.loader import HookReport
from tracer.kernel.plan import CapturePlan


class Check(msgspec.Struct, frozen=True):
    """One line of the report: `ok` is None where the answer is neither good nor bad."""

    name: str
    ok: bool | None
    finding: str
    advice: str = ""


def doctor(json: Annotated[bool, typer.Option("--json", help="The report as JSON.")] = False) -> None:
    """
    What this host can do, which hooks will be used, and what to install.

    The programs are really loaded and attached, and detached again. Exit code 3 where tracing is not possible.

    Example: sudo tcptrace doctor
    """
    facts = probe()
    checks = examine(facts)
    hooks, problem = try_hooks()
    if json:
        print(msgspec.json.encode(report(facts, checks, hooks, problem)).decode())
    else:
        print_report(checks, hooks, problem)
    if problem is not None:
        raise typer.Exit(problem.exit_code)


def examine(facts: HostFacts) -> list[Check]:
    """What the facts mean for tracing."""
    privileged = facts.root or "CAP_SYS_ADMIN" in facts.capabilities or {"CAP_BPF", "CAP_PERFMON"} <= facts.capabilities
    return [
        Check("tcptrace", None, __version__),
        Check("kernel", facts.version >= (5, 8), f"{facts.release} {facts.machine}", "Linux 5.8 or later has the BPF ring buffer"),
        Check("privilege", privileged, "root" if facts.root else ", ".join(sorted(facts.capabilities)) or "none", "run it with sudo"),
        Check("kernel types (BTF)", facts.btf, "/sys/kernel/btf/vmlinux", "use a kernel with CONFIG_DEBUG_INFO_BTF=y"),
        Check("BCC", facts.bcc_python is not None, facts.bcc_python or "not found", "apt-get install python3-bpfcc"),
        Check("lockdown", facts.lockdown != "confidentiality", facts.lockdown or "none", "boot with lockdown=integrity or none"),
        Check("tracefs", None, "mounted" if facts.tracefs else "not mounted; mounted privately while the programs are loaded"),
    ]


def try_hooks() -> tuple[tuple[HookReport, ...], TcptraceError | None]:
    """Which hooks this host takes, by attaching them; or the error that stands in the way."""
    try:
        with begin(CapturePlan()).wait() as capture:
            return capture.hooks, None
    except TcptraceError as error:
        return (), error


def report(facts: HostFacts, checks: list[Check], hooks: tuple[HookReport, ...], problem: TcptraceError | None) -> dict[str, Any]:
    return {
        "version": __version__,
        "kernel": facts.release,
        "can_trace": problem is None,
        "error": None if problem is None else {"problem": problem.problem, "advice": problem.advice},
        "hooks": hooks,
        "checks": checks,
    }


def print_report(checks: list[Check], hooks: tuple[HookReport, ...], problem: TcptraceError | None) -> None:
    marks = {True: "ok", False: "NO", None: "--"}
    for check in checks:
        print(f"{marks[check.ok]:<3} {check.name:<20} {check.finding}")
        if check.ok is False and check.advice:
            print(f"    {'':<20} {check.advice}")
    for hook in hooks:
        print(f"{'ok' if hook.kind else '--':<3} {'hook ' + hook.hook:<20} {hook.kind or 'off'}")
        for attempt in hook.tried:
            print(f"    {'':<20} not {attempt.kind}: {attempt.error}")
    if problem is None:
        print("\nThis host can trace. Start with: tcptrace, or tcptrace events")
    else:
        print(f"\nThis host cannot trace now: {problem.problem}\n{problem.advice}")
