# SPDX-License-Identifier: Apache-2.0
"""tcptrace doctor: what this host can do, which hooks will be used, and what to install."""

from dataclasses import dataclass
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

    BCC is that of the Python which the environment variable TCPTRACE_BCC_PYTHON names, else of tcptrace's own or of the system's.

    Example: sudo tcptrace doctor
    """
    facts = probe()
    checks = examine(facts)
    trial = try_hooks()
    if json:
        print(msgspec.json.encode(report(facts, checks, trial)).decode())
    else:
        print_report(checks, trial)
    if trial.problem is not None:
        raise typer.Exit(trial.problem.exit_code)


def examine(facts: HostFacts) -> list[Check]:
    """What the facts mean for tracing."""
    return [
        Check("tcptrace", None, __version__),
        Check("kernel", facts.version >= (5, 8), f"{facts.release} {facts.machine}", "Linux 5.8 or later has the BPF ring buffer"),
        Check("privilege", facts.privileged, privilege(facts), "run it with sudo, on the host itself"),
        Check("kernel types (BTF)", facts.btf, "/sys/kernel/btf/vmlinux", "use a kernel with CONFIG_DEBUG_INFO_BTF=y"),
        Check("BCC", facts.bcc_python is not None, facts.bcc_python or "not found", "apt-get install python3-bpfcc"),
        Check("lockdown", facts.lockdown != "confidentiality", facts.lockdown or "none", "boot with lockdown=integrity or none"),
        Check("tracefs", None, "mounted" if facts.tracefs else "not mounted; mounted privately while the programs are loaded"),
    ]


def privilege(facts: HostFacts) -> str:
    """Who runs this: "root", and where that does not say it all the capabilities."""
    names = [name for name in sorted(facts.capabilities) if not (facts.root and facts.privileged)]
    return " ".join([*(["root"] if facts.root else []), *names]) or "none"


@dataclass(frozen=True, slots=True)
class Trial:
    """Which hooks this host takes, seen by attaching them, and the BCC that compiled them; or the error that stands in the way."""

    hooks: tuple[HookReport, ...] = ()
    bcc: str = ""
    problem: TcptraceError | None = None


def try_hooks() -> Trial:
    try:
        with begin(CapturePlan()).wait() as capture:
            return Trial(capture.hooks, capture.bcc)
    except TcptraceError as error:
        return Trial(problem=error)


def report(facts: HostFacts, checks: list[Check], trial: Trial) -> dict[str, Any]:
    problem = trial.problem
    return {
        "version": __version__,
        "kernel": facts.release,
        "can_trace": problem is None,
        "error": None if problem is None else {"problem": problem.problem, "advice": problem.advice},
        "bcc": trial.bcc or None,
        "hooks": trial.hooks,
        "checks": checks,
    }


def print_report(checks: list[Check], trial: Trial) -> None:
    marks = {True: "ok", False: "NO", None: "--"}
    for check in checks:
        print(f"{marks[check.ok]:<3} {check.name:<20} {check.finding}")
        if check.ok is False and check.advice:
            print(f"    {'':<20} {check.advice}")
    for hook in trial.hooks:
        print(f"{'ok' if hook.kind else '--':<3} {'hook ' + hook.hook:<20} {hook.kind or 'off'}")
        for attempt in hook.tried:
            print(f"    {'':<20} not {attempt.kind}: {attempt.error}")
    if trial.bcc:
        print(f"ok  {'BCC version':<20} {trial.bcc}")
    if trial.problem is None:
        print("\nThis host can trace. Start with: tcptrace, or tcptrace events")
    else:
        print(f"\nThis host cannot trace now: {trial.problem.problem}\n{trial.problem.advice}")
