# SPDX-License-Identifier: Apache-2.0
"""Recording: what a recording says of its run, what is written to it, and what is shown meanwhile."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import msgspec

from tracer import __version__
from tracer.cli.reconciling import RECONCILIATION, Reconciling
from tracer.cli.recorded import CGROUPS, COUNTERS, StoredFilter
from tracer.cli.run import Run, owner_filter
from tracer.events.batch import EventBatch
from tracer.events.clock import measure_wall_offset_ns
from tracer.events.records import take
from tracer.kernel.counters import CounterTotals
from tracer.log.codec import encode
from tracer.log.entries import FORMAT, RunInfo
from tracer.log.recording import Recording
from tracer.reconcile.cgroups import CgroupPaths
from tracer.reconcile.reconciler import NO_KEYS
from tracer.state.samples import Reconciliation
from tracer.state.sockets import SocketTable
from tracer.state.tuples import Keys
from tracer.views.connection_table import size_text

POLL_S = 0.1
REFRESH_S = 1.0


def run_info(run: Run) -> RunInfo:
    """What a recording says of its run."""
    return RunInfo(
        format=FORMAT,
        version=__version__,
        host=run.host,
        kernel=run.capture.facts.release,
        boot_id=boot_id(),
        started_ns=run.began_ns,
        wall_offset_ns=measure_wall_offset_ns(),
        hooks=[msgspec.to_builtins(hook) for hook in run.capture.hooks],
        facts=msgspec.to_builtins(run.capture.facts),
        keep=msgspec.to_builtins(StoredFilter.of(run.capture.plan.keep)),
        ring_bytes=run.capture.plan.ring_bytes,
        command_line=["tcptrace", *sys.argv[1:]],
    )


def boot_id() -> str:
    """What tells this boot of the host from any other; "" where the kernel does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


class View(Protocol):
    """What is shown while a recording is made."""

    def fold(self, batch: EventBatch) -> None:
        """Sees a batch."""

    def reconcile(self, sample: Reconciliation) -> Keys:
        """Sees a sample of the kernel; the keys of connections whose owners are wanted."""

    def show(self, counters: CounterTotals) -> None:
        """Shows how it stands, once a second."""


class StatusLine:
    """One line, over and over, on a terminal; nothing anywhere else."""

    def __init__(self, run: Run, recording: Recording) -> None:
        self._run = run
        self._recording = recording
        self._before = (time.monotonic(), 0)

    def fold(self, batch: EventBatch) -> None:
        pass

    def reconcile(self, sample: Reconciliation) -> Keys:  # noqa: ARG002  # a View
        return NO_KEYS

    def show(self, counters: CounterTotals) -> None:  # noqa: ARG002  # a View
        now, events = time.monotonic(), self._run.events
        then, before = self._before
        self._before = (now, events)
        rate = (events - before) / max(now - then, 1e-9)
        size = self._recording.size
        each = f", {size / events:.1f} bytes per event" if events else ""
        line = f"{events:,} events, {rate:,.0f}/s, lost {self._run.lost_total:,}, {size_text(size)}{each}"
        print(f"\r{line:<78}", end="", file=sys.stderr, flush=True)


class Silence:
    """Nothing is shown."""

    def fold(self, batch: EventBatch) -> None:
        pass

    def reconcile(self, sample: Reconciliation) -> Keys:  # noqa: ARG002  # a View
        return NO_KEYS

    def show(self, counters: CounterTotals) -> None:
        pass


@contextmanager
def shown(run: Run, recording: Recording, console: bool, json: bool) -> Iterator[View]:
    """The view that is wanted, or that the terminal allows."""
    if console or json:
        from tracer.cli.screen_options import ScreenOptions
        from tracer.cli.screens import ShownPictures, open_screen

        with open_screen(run, ScreenOptions(json=json)) as screen:
            yield ShownPictures(run, screen)
    elif sys.stderr.isatty():
        yield StatusLine(run, recording)
        print(file=sys.stderr)
    else:
        yield Silence()


def record_until_stopped(run: Run, reconciler: Reconciling, recording: Recording, view: View) -> None:
    """Writes every batch, the samples of the kernel, and once a second, and at the end, the counters that a picture needs."""
    keep, cgroups = owned_only(run), NewCgroups()

    def reconcile(sample: Reconciliation) -> Keys:
        recording.sample(RECONCILIATION, encode(sample))
        return view.reconcile(sample)

    due = time.monotonic() + REFRESH_S
    for taken in run.batches(POLL_S):
        batch = limited(run, keep(taken))
        if new := cgroups.look(batch):
            recording.sample(CGROUPS, msgspec.json.encode(new))
            recording.keep(CGROUPS, msgspec.json.encode(cgroups.paths))
        recording.append(batch)
        view.fold(batch)
        reconciler.apply_if_ready(batch, reconcile)
        if recording.is_full:
            run.stop.ask()
        if time.monotonic() >= due:
            take_picture(run, recording, view)
            due = max(due + REFRESH_S, time.monotonic())
    take_picture(run, recording, view)


def limited(run: Run, batch: EventBatch) -> EventBatch:
    """The batch, as far as --count allows."""
    allowed = run.room(len(batch))
    return batch if allowed == len(batch) else EventBatch(batch.events[:allowed], batch.now_ns, batch.wall_offset_ns, batch.lost)


def take_picture(run: Run, recording: Recording, view: View) -> None:
    counters = run.capture.counters()
    recording.sample(COUNTERS, encode(counters))
    view.show(counters)


class NewCgroups:
    """
    Names the cgroups of the events: elsewhere an id says nothing.

    Attributes:
        paths: of all cgroups seen so far, by id; one that was gone before it was looked for has none.
    """

    def __init__(self) -> None:
        self.paths: dict[int, str] = {}
        self._seen = {0}
        self._names = CgroupPaths()

    def look(self, batch: EventBatch) -> dict[int, str]:
        """The paths of a batch's cgroups that had none before."""
        ids = batch.events["cgroup"]
        new = {*ids[:1].tolist(), *ids[1:][ids[1:] != ids[:-1]].tolist()} - self._seen
        self._seen |= new
        found = {cgroup: path for cgroup in new if (path := self._names.path(cgroup)) is not None}
        self.paths |= found
        return found


def owned_only(run: Run) -> Callable[[EventBatch], EventBatch]:
    """Leaves the events of unwanted owners out of a batch, where -p, -c or --cgroup is given."""
    owners = owner_filter(run.options)
    if owners.keeps_all:
        return lambda batch: batch
    table = SocketTable()

    def keep(batch: EventBatch) -> EventBatch:
        wanted = owners.keep(table.fold(batch))
        return EventBatch(take(batch.events, wanted), batch.now_ns, batch.wall_offset_ns, batch.lost)

    return keep


def sizes(events: int, size: int) -> str:
    """How much was recorded, in one line."""
    each = f", {size / events:.1f} bytes per event" if events else ""
    return f"{events} events, {size_text(size)}{each}"
