# SPDX-License-Identifier: Apache-2.0
"""
A live capture: from the attached programs to batches of events.

Polled by time, since a wakeup for each event costs the traced host more than everything else; the kernel wakes us only when the
ring passes its watermark.
"""

import select
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from tracer.events.batch import EventBatch
from tracer.events.births import BirthNames
from tracer.events.clock import WallClock
from tracer.kernel.counters import Counters, CounterTotals
from tracer.kernel.facts import HostFacts, probe
from tracer.kernel.loader import HookReport, LoadedPrograms, Loader
from tracer.kernel.plan import CapturePlan, make_request
from tracer.kernel.ring import Ring

POLL_S = 0.05
#: Events of one batch at most: few enough that the ring is looked at again after some milliseconds of a caller's work, and enough that
#: NumPy's calls cost little for each: a fold takes a quarter less for an event than with half as many.
BATCH_LIMIT = 8192
#: Events that wait for a slow caller at most, 64 MB; beyond it records stay in the ring, and the kernel counts what finds no room.
BACKLOG_LIMIT = 1 << 19


def bpf_folder() -> Path:
    """The programs' sources: inside the installed package, or beside it in a clone."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "bpf"
    return installed if installed.is_dir() else package.parent / "bpf"


def losing_programs(programs: LoadedPrograms) -> tuple[int, ...]:
    """The programs that an event is lost with when the kernel skips them: all but those that stand in for others."""
    return tuple(fd for name, fd in programs.programs.items() if not name.endswith("_nested"))


@dataclass(frozen=True, slots=True)
class PendingCapture:
    """A capture whose programs are being compiled; the caller has most of a second for other work."""

    facts: HostFacts
    plan: CapturePlan
    loader: Loader

    def wait(self) -> "Capture":
        """
        The capture, with everything attached.

        Raises:
            TcptraceError: as Loader.result().
        """
        with self.loader:
            programs = self.loader.result()
        return Capture(self.facts, self.plan, programs)


def begin(plan: CapturePlan) -> PendingCapture:
    """
    Starts the loader child and returns at once.

    A capture of one network namespace has that one for its home: its counters are exact, and those of all others counted apart.

    Raises:
        HostError: it is known at once that this host cannot trace.
    """
    facts = probe()
    if plan.keep.netns:
        facts = replace(facts, home_netns=plan.keep.netns)
    request = make_request(facts, plan, bpf_folder())
    assert facts.bcc_python is not None  # make_request refuses a host without
    return PendingCapture(facts, plan, Loader(facts.bcc_python, request))


class Capture:
    """
    Attached programs, their ring and their counters. A context manager: leaving it detaches everything.

    Attributes:
        facts, plan: the host, and what was asked for.
        hooks: which hooks are in use.
        bcc: the version of BCC that compiled the programs.
        ring_high: the most records that ever waited in the ring when it was read.
    """

    def __init__(self, facts: HostFacts, plan: CapturePlan, programs: LoadedPrograms) -> None:
        self.facts = facts
        self.plan = plan
        self.hooks: tuple[HookReport, ...] = programs.hooks
        self.bcc = programs.bcc
        self.ring_high = 0
        self._programs = programs
        descriptors = programs.descriptors
        self._ring = Ring(descriptors["events"], plan.ring_bytes)
        self._counters = Counters(descriptors["counters"], facts.possible_cpus, losing_programs(programs))
        self._clock = WallClock()
        self._births = BirthNames()
        self._lost = self._lost_until_now()
        # Edge-triggered: a level would report the unread records at once, for ever; an edge is the kernel's wakeup and no more.
        self._epoll = select.epoll()
        self._epoll.register(descriptors["events"], select.EPOLLIN | select.EPOLLET)

    def __enter__(self) -> "Capture":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._epoll.close()
        self._ring.__exit__(kind, error, trace)
        self._counters.close()
        self._programs.close()

    @property
    def ring_capacity(self) -> int:
        """Records that fit into the ring."""
        return self._ring.reader.capacity

    def wake_on(self, fd: int) -> None:
        """Lets batches() yield at once, an empty batch if need be, whenever *fd* can be read."""
        self._epoll.register(fd, select.EPOLLIN)

    def counters(self) -> CounterTotals:
        """The kernel side's counters now."""
        return self._counters.read()

    def take(self) -> EventBatch:
        """
        What is in the ring now, at most BATCH_LIMIT events, without waiting.

        Raises:
            RingError: the ring holds what no program of ours writes.
        """
        self.ring_high = max(self.ring_high, self._ring.reader.pending)
        events = self._births.name(self._ring.reader.take(BATCH_LIMIT), time.monotonic_ns())
        lost = self._lost_until_now()
        missing = {reason: total - self._lost[reason] for reason, total in lost.items() if total > self._lost[reason]}
        self._lost = lost
        return EventBatch(events, time.monotonic_ns(), self._clock.offset_ns(), missing)

    def _lost_until_now(self) -> dict[str, int]:
        """By reason. "accept_missed": calls of accept that no probe was free for, at most as many accepts."""
        lost = self._counters.lost()
        if self._programs.return_probe is not None:
            lost["accept_missed"] = self._programs.return_probe.missed()
        return lost

    def batches(self, stopped: Callable[[], bool], poll_s: float = POLL_S) -> Iterator[EventBatch]:
        """
        Batches until *stopped* says so, and then what was in the ring by that time.

        An empty batch comes at least every *poll_s* seconds, so that the caller can flush, refresh and look at the clock. A caller
        that is slower than the events for a while loses none: between its batches a filling ring is emptied into memory.
        """
        waiting: deque[EventBatch] = deque()
        while not stopped():
            self._refill(waiting)
            while waiting:
                yield waiting.popleft()
                if self._ring.reader.pending > self.ring_capacity // 8:
                    self._refill(waiting)
            self._epoll.poll(poll_s)
            if not self._ring.reader.pending:
                yield self.take()
        self._refill(waiting)
        yield from waiting
        rest = self._births.rest()
        if rest is not None:
            yield EventBatch(rest, time.monotonic_ns(), self._clock.offset_ns(), {})

    def _refill(self, waiting: deque[EventBatch]) -> None:
        """Moves the ring's records to the end of *waiting*, as far as there is room in it."""
        pending = self._ring.reader.pending
        while pending > 0 and sum(map(len, waiting)) < BACKLOG_LIMIT:
            batch = self.take()
            if not len(batch) and not batch.lost:
                return  # the first record is still being written
            waiting.append(batch)
            pending -= len(batch)
