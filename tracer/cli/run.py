# SPDX-License-Identifier: Apache-2.0
"""One capture from start to end, as every capturing command has it: limits, signals, the stderr lines, the summary."""

import platform
import resource
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from tracer.cli.options import CaptureOptions, parse_names, parse_pids
from tracer.cli.recorded import PendingRecording, RecordedCapture
from tracer.errors import UsageError
from tracer.events.batch import EventBatch
from tracer.events.filters import CaptureFilter, UndecidedBirths
from tracer.kernel.capture import Capture, PendingCapture, begin
from tracer.kernel.loader import describe_hooks, hooks_in_brief
from tracer.kernel.plan import CapturePlan
from tracer.state.select import CgroupTree, OwnerFilter

if TYPE_CHECKING:
    from tracer.reconcile.polling import PollingCapture  # at run time only where it is asked for: psutil takes 3 MB


def process_start() -> float:
    """When this process was started, on time.monotonic()'s scale; for the time to the first event."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    since_boot = ticks / 100  # USER_HZ is 100 on every Linux
    return since_boot - (time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic())


@dataclass(slots=True)
class Stop:
    """When to end: asked by a signal, or a limit is reached."""

    deadline: float = float("inf")
    asked: bool = False

    def __call__(self) -> bool:
        return self.asked or time.monotonic() >= self.deadline

    def ask(self, _signal: int = 0, _frame: FrameType | None = None) -> None:
        self.asked = True


@contextmanager
def stopped_by_signals(stop: Stop) -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP end the capture in good order instead of the process."""
    chosen = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, stop.ask) for number in chosen}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass(slots=True)
class Run:
    """
    A capture in progress.

    Attributes:
        began_ns: CLOCK_MONOTONIC of the captured host when the capture began.
        host: its name.
        events, lost: so far; lost by reason.
        written: lines that the command was allowed to write, for --count.
    """

    capture: "Capture | PollingCapture | RecordedCapture"
    options: CaptureOptions
    stop: Stop
    started: float
    began_ns: int
    host: str
    startup_s: float = 0.0
    events: int = 0
    written: int = 0
    lost: dict[str, int] = field(default_factory=dict)
    births: UndecidedBirths = field(default_factory=UndecidedBirths)

    @property
    def lost_total(self) -> int:
        return sum(self.lost.values())

    @property
    def keep(self) -> CaptureFilter:
        """What the events were kept for, if nothing narrower was asked for: what else there was, they cannot tell."""
        own = self.capture.plan.keep
        if isinstance(self.capture, RecordedCapture) and own == CaptureFilter():
            return self.capture.recorded_keep
        return own

    def batches(self, poll_s: float) -> Iterator[EventBatch]:
        """The capture's batches, without the events that the filter rules out after all, until it is time to stop."""
        wanted = self.capture.plan.keep
        for batch in self.capture.batches(self.stop, poll_s):
            for reason, count in batch.lost.items():
                self.lost[reason] = self.lost.get(reason, 0) + count
            decided = self._decided(batch, wanted)
            self.events += len(decided)
            yield decided

    def _decided(self, batch: EventBatch, wanted: CaptureFilter) -> EventBatch:
        if not (wanted.waits_for_local_port or wanted.waits_for_remote_end):
            return batch
        events = self.births.decide(batch.events, wanted)
        return EventBatch(events, batch.now_ns, batch.wall_offset_ns, batch.lost)

    def room(self, lines: int) -> int:
        """How many of this many lines may still be written under --count; the last one stops the capture."""
        limit = self.options.count
        allowed = lines if limit is None else min(lines, limit - self.written)
        self.written += allowed
        if limit is not None and self.written >= limit:
            self.stop.ask()
        return allowed

    def summary(self) -> dict[str, Any]:
        """The fields of --summary."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        counters = self.capture.counters()
        return {
            "events": self.events,
            "written": self.written,
            "lost": self.lost_total,
            "lost_by_reason": self.lost,
            "rescued": counters.rescued,
            "filtered": counters.filtered,
            "duration_s": round(time.monotonic() - self.started, 3),
            "startup_s": round(self.startup_s, 3),
            "cpu_s": round(usage.ru_utime + usage.ru_stime, 3),
            "max_rss_bytes": usage.ru_maxrss * 1024,
            "ring_bytes": self.capture.plan.ring_bytes,
            "ring_high_bytes": self.capture.ring_high * 128,
            "hooks": describe_hooks(self.capture.hooks),
        }


def owner_filter(options: CaptureOptions) -> OwnerFilter:
    """
    Raises:
        UsageError: an option makes no sense, or the cgroup does not exist.
    """
    if options.cgroup is not None and not (options.cgroup / "cgroup.procs").exists():
        raise UsageError(f"no cgroup {options.cgroup}", "give the folder of a v2 cgroup, such as /sys/fs/cgroup/system.slice")
    return OwnerFilter(
        tgids=parse_pids(options.pid) if options.pid is not None else frozenset(),
        comms=parse_names(options.comm) if options.comm is not None else frozenset(),
        cgroups=CgroupTree(options.cgroup) if options.cgroup is not None else None,
    )


def begin_capture(options: CaptureOptions, recordings: Sequence[str] = ()) -> "Pending":
    """
    Checks all options, then starts the loader, or, with recordings, nothing.

    Raises:
        TcptraceError: an option makes no sense, or this host cannot trace.
    """
    options.check()
    owner_filter(options)
    plan = options.plan()
    if recordings:
        if options.no_bpf:
            raise UsageError("--no-bpf captures, --input reads a recording", "leave one of them out")
        return PendingRecording(tuple(recordings), plan, options.duration)
    return PendingPolling(plan) if options.no_bpf else begin(plan)


@dataclass(frozen=True, slots=True)
class PendingPolling:
    """A capture without BPF, which has nothing to wait for."""

    plan: CapturePlan

    def wait(self) -> "PollingCapture":
        from tracer.reconcile.polling import PollingCapture

        return PollingCapture(self.plan)


Pending: TypeAlias = PendingCapture | PendingPolling | PendingRecording


@contextmanager
def running(pending: Pending, options: CaptureOptions) -> Iterator[Run]:
    """Waits for the programs, tells that the capture runs, and at the end what came of it."""
    stop = Stop()
    with stopped_by_signals(stop), pending.wait(stop) if isinstance(pending, PendingRecording) else pending.wait() as capture:
        run = make_run(capture, options, stop)
        say(f"tcptrace: {doing(run)} {capture.facts.release} ({hooks_in_brief(capture.hooks)}), ready in {run.startup_s:.2f} s")
        try:
            yield run
        finally:
            finish(run)


def make_run(capture: "Capture | PollingCapture | RecordedCapture", options: CaptureOptions, stop: Stop) -> Run:
    """The run of a capture that has begun, or of one that was recorded; --duration is by the clock of the captured host."""
    started = time.monotonic()
    startup_s = started - process_start()
    if isinstance(capture, RecordedCapture):
        return Run(capture, options, stop, started, capture.info.started_ns, capture.info.host, startup_s)
    if options.duration is not None:
        stop.deadline = started + options.duration
    return Run(capture, options, stop, started, round(started * 1e9), platform.node(), startup_s)


def doing(run: Run) -> str:
    """What is done, up to the kernel's name."""
    capture = run.capture
    if isinstance(capture, RecordedCapture):
        return f"replaying {capture.name}, recorded on {run.host},"
    return "capturing on"


def finish(run: Run) -> None:
    """The last line on standard error, and the summary file."""
    summary = run.summary()
    if run.options.summary is not None:
        write_summary(run.options.summary, summary)
    megabytes = summary["max_rss_bytes"] / 1e6
    say(
        f"tcptrace: done: {summary['events']} events, {summary['lost']} lost, {summary['duration_s']:.1f} s, "
        f"{summary['cpu_s']:.2f} s CPU, {megabytes:.0f} MB peak memory"
    )
    if run.lost:
        say(loss_advice(run.lost))
    if isinstance(run.capture, RecordedCapture) and not run.stop.asked:
        for line in run.capture.problems():
            say(f"tcptrace: {line}")


def loss_advice(lost: dict[str, int]) -> str:
    """What was lost and what to do about it, in one line."""
    reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(lost.items()))
    remedy = "; use a larger --ring-size or a narrower filter" if "ring_full" in lost else ""
    return f"tcptrace: the events are incomplete ({reasons}){remedy}"


def write_summary(path: Path, summary: dict[str, Any]) -> None:
    try:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(summary), indent=2) + b"\n")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}", "give a file that you may write") from error


def say(line: str) -> None:
    """A line on standard error; a closed one is no reason to fail."""
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)
