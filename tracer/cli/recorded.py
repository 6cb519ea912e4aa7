# SPDX-License-Identifier: Apache-2.0
"""A recording with the face of a capture, so that every command that captures can read one instead."""

import ipaddress
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from tracer.cli.opening import STDIN, condition_lines, in_order, open_reader
from tracer.errors import RecordingError
from tracer.events.batch import EventBatch
from tracer.events.filters import CaptureFilter, PortRanges
from tracer.events.records import take
from tracer.events.schema import STATES
from tracer.kernel.counters import CounterTotals
from tracer.kernel.facts import HostFacts
from tracer.kernel.loader import HookReport
from tracer.kernel.plan import CapturePlan
from tracer.log.codec import decode
from tracer.log.entries import RunInfo, Sample

if TYPE_CHECKING:
    from tracer.log.reader import Condition  # at run time only where a recording is read: pyarrow takes 25 MB

NS = 1_000_000_000
EVERYTHING = CaptureFilter()


@dataclass(frozen=True, slots=True)
class PendingRecording:
    """
    Recordings to be read, in the place of a capture to be begun.

    Attributes:
        paths: of one run: one file, or the files of a rotation; "-" is standard input.
        plan: what to keep of them.
        duration_s: read so much from the beginning; None: all.
    """

    paths: tuple[str, ...]
    plan: CapturePlan
    duration_s: float | None = None

    def wait(self, stopped: Callable[[], bool] = lambda: False) -> "RecordedCapture":
        """
        The recording, opened; one that comes through a pipe may be waited for until *stopped* says otherwise.

        Raises:
            RecordingError: one of the files is no recording, or they are not of one run.
        """
        return RecordedCapture(self.paths, self.plan, self.duration_s, stopped)


class StoredFilter(msgspec.Struct, frozen=True):
    """A CaptureFilter as a recording has it: networks as texts."""

    ports: PortRanges = ()
    lports: PortRanges = ()
    rports: PortRanges = ()
    family: int = 0
    networks: tuple[str, ...] = ()
    netns: int = 0

    @classmethod
    def of(cls, keep: CaptureFilter) -> "StoredFilter":
        return cls(keep.ports, keep.lports, keep.rports, keep.family, tuple(map(str, keep.networks)), keep.netns)

    def filter(self) -> CaptureFilter:
        networks = tuple(ipaddress.ip_network(text) for text in self.networks)
        return CaptureFilter(self.ports, self.lports, self.rports, self.family, networks, self.netns)


#: The kinds of samples that name cgroups, and that have the counters of the kernel side: CounterTotals.
CGROUPS = "cgroups"
COUNTERS = "counters"


class KnownCgroups:
    """Paths of the recorded host's cgroups by id, as far as the recording has told them: on this host an id is another's."""

    def __init__(self) -> None:
        self._paths: dict[int, str] = {}

    def path(self, cgroup: int) -> str | None:
        """None where it is not known."""
        return self._paths.get(cgroup)

    def add(self, sample: Sample) -> None:
        """Takes a sample of the kind CGROUPS."""
        self._paths |= msgspec.json.decode(sample.content, type=dict[int, str])


class RecordedCapture:
    """
    The same face as kernel.capture.Capture, over recordings of one run. A context manager.

    Attributes:
        info: the run.
        name: of the recording, for messages.
        recorded_keep: what the recorded capture kept.
        samples: what was recorded after the batch that was given last, and before the next.
        cgroups: the names of the host's cgroups, as far as they have been read.
        conditions: what is wrong with each file read so far, by name.
    """

    ring_high = 0
    ring_capacity = 1
    bcc = ""

    def __init__(
        self, paths: Sequence[str], plan: CapturePlan, duration_s: float | None = None, stopped: Callable[[], bool] = lambda: False
    ) -> None:
        self._paths, self._duration_s = tuple(paths), duration_s
        self.name = " ".join(paths)
        self.plan = plan
        with ExitStack() as files:
            self._readers = in_order([(path, open_reader(path, files, stopped)) for path in paths])
            self._read_info(self._readers[0][1].info)
            self._files = files.pop_all()
        self.samples: list[Sample] = []
        self.cgroups = KnownCgroups()
        self._counters: Sample | None = None
        self.conditions: dict[str, Condition] = {}
        self._until_ns = self.info.started_ns + int(duration_s * NS) if duration_s is not None else None

    def _read_info(self, info: RunInfo) -> None:
        self.info = info
        try:
            self.facts: HostFacts = msgspec.convert(info.facts, HostFacts)
            self.recorded_keep = msgspec.convert(info.keep, StoredFilter).filter()
            self.hooks = tuple(msgspec.convert(hook, HookReport) for hook in info.hooks)
        except (msgspec.ValidationError, ValueError) as error:
            raise RecordingError(f"{self.name} describes its run as no version does: {error}", "use another copy of the file") from error

    def __enter__(self) -> "RecordedCapture":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._files.close()

    @property
    def is_piped(self) -> bool:
        """Whether it comes through standard input."""
        return STDIN in self._paths

    def again(self) -> "RecordedCapture":
        """
        The same recording from its beginning.

        Raises:
            RecordingError: it came through a pipe, or is gone.
        """
        return RecordedCapture(self._paths, self.plan, self._duration_s)

    def wake_on(self, fd: int) -> None:
        """As Capture.wake_on; a recording never makes anyone wait."""

    def counters(self) -> CounterTotals:
        """The kernel side's counters then, as of the last sample that was read."""
        return decode(self._counters.content, CounterTotals) if self._counters is not None else no_counters()

    def batches(self, stopped: Callable[[], bool], poll_s: float = 0.0) -> Iterator[EventBatch]:  # noqa: ARG002  # as Capture's
        """The batches as they were folded, less what the plan does not keep; each once what follows it is known."""
        held: EventBatch | None = None
        following: list[Sample] = []
        for item in self._items():
            if stopped():
                return
            if isinstance(item, Sample):
                following.append(item)
                continue
            if held is not None:
                self.samples, following = following, []
                yield held
            if self._until_ns is not None and item.now_ns > self._until_ns:
                return
            held = self._kept(item)
        if held is not None:
            self.samples = following
            yield held

    def problems(self) -> list[str]:
        """What is wrong with the files read so far, one line for each thing."""
        return [line for name, condition in self.conditions.items() for line in condition_lines(name, condition)]

    def _items(self) -> Iterator[EventBatch | Sample]:
        """Everything in all the files; what is missing between two of them is a loss like any other."""
        next_event: int | None = None
        for name, reader in self._readers:
            self.conditions[name] = reader.condition
            if next_event is not None:
                reader.next_event = next_event
            for item in reader.items():
                if isinstance(item, Sample) and item.kind == CGROUPS:
                    self.cgroups.add(item)
                    continue
                if isinstance(item, Sample) and item.kind == COUNTERS:
                    self._counters = item
                yield item
            next_event = reader.next_event

    def _kept(self, batch: EventBatch) -> EventBatch:
        if self.plan.keep == EVERYTHING:
            return batch
        keep = self.plan.keep.keep(batch.events)
        return EventBatch(take(batch.events, keep), batch.now_ns, batch.wall_offset_ns, batch.lost)


def no_counters() -> CounterTotals:
    """Counters that have counted nothing."""
    none = np.zeros(2, dtype=np.uint64)
    return CounterTotals(
        transitions=np.zeros((2, STATES, STATES), dtype=np.uint64),
        accepts=none,
        retransmits=none,
        resets_sent=none,
        resets_received=none,
        records=0,
        filtered=0,
        lost={},
        rescued=0,
        other_protocols=0,
    )
