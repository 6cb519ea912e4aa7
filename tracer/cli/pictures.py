# SPDX-License-Identifier: Apache-2.0
"""The live state, the pictures taken of it, and where they are shown."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import msgspec
import numpy as np
import psutil
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from tracer.cli.recorded import no_counters
from tracer.cli.run import Run
from tracer.errors import RecordingError
from tracer.events.batch import EventBatch
from tracer.events.schema import STATE_NAMES, State
from tracer.kernel.counters import CounterTotals
from tracer.kernel.loader import describe_hooks
from tracer.log.codec import decode
from tracer.log.entries import Sample
from tracer.reconcile.baseline import Baseline, state_changes, take_baseline
from tracer.reconcile.proc_net import read_time_wait
from tracer.state.rates import RATES, RateTable
from tracer.state.snapshot import SelfUse, Snapshot, to_json
from tracer.views.console import ASCII_BLOCKS, BLOCKS, render

POLL_S = 0.1
HISTORY_S = 180
#: On a host that never rests, the baseline stays approximate after so many.
BASELINE_ATTEMPTS = 20
BASELINE_PAUSE_S = 0.2
#: Not states that a socket of the table is in: closed, or no full socket.
NOT_GAUGES = (State.CLOSE, State.NEW_SYN_RECV, State.BOUND_INACTIVE)

Show: TypeAlias = Callable[[Snapshot], None]


@dataclass(frozen=True, slots=True)
class Moment:
    """
    What enters a picture beside the batches: read from the host now, or recorded then.

    Attributes:
        counters: the kernel side's.
        baseline: of the states, once it is known.
        time_wait: sockets in TIME_WAIT, None where that cannot be read.
    """

    counters: CounterTotals
    baseline: Baseline | None
    time_wait: int | None


#: What a recording that was cut off before its first sample has.
NOTHING_KNOWN = Moment(no_counters(), None, None)
#: The kind of the samples that are moments.
MOMENT = "moment"


def recorded_moments(samples: Sequence[Sample]) -> list[Moment]:
    """
    Raises:
        RecordingError: one of them is of no form that this version knows.
    """
    try:
        return [decode(sample.content(), Moment) for sample in samples if sample.kind == MOMENT]
    except msgspec.MsgspecError as error:
        raise RecordingError(f"a sample cannot be read: {error}", "read the recording with the version that wrote it") from error


class HostWatch:
    """Reads what pictures are made of from this host. A context manager, since a thread of it reads the socket table."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._baseline: Baseline | None = None
        # The kernel needs 50 ms for its table when there are 100,000 in TIME_WAIT; the ring cannot wait for that.
        self._ending = threading.Event()
        self._settling = threading.Thread(target=self._settle)
        self._settling.start()

    def _settle(self) -> None:
        """Takes the baseline, again until it is exact."""
        for _ in range(BASELINE_ATTEMPTS):
            self._baseline = take_baseline(lambda: self._run.capture.counters().transitions[0])
            if self._baseline.exact or self._ending.wait(BASELINE_PAUSE_S):
                return

    def __enter__(self) -> "HostWatch":
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._settling.join()

    def moment(self) -> Moment:
        return Moment(self._run.capture.counters(), self._baseline, read_time_wait())


def refresh_until_stopped(run: Run, host: HostWatch, pictures: "Pictures", show: Show, refresh_s: float) -> None:
    """Folds every batch, and shows a picture each *refresh_s* seconds, and a last one."""
    due = time.monotonic() + refresh_s
    for batch in run.batches(min(POLL_S, refresh_s)):
        run.room(len(batch))
        pictures.fold(batch)
        if time.monotonic() >= due:
            show(pictures.take(host.moment()))
            due = max(due + refresh_s, time.monotonic())
    show(pictures.take(host.moment()))


class Pictures:
    """The live state and the snapshots taken of it."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._rates = RateTable(HISTORY_S)
        self._now_ns = run.began_ns
        self._wall_offset_ns = 0
        self._process = psutil.Process()
        self._cpu = (time.monotonic(), self._cpu_s())

    def fold(self, batch: EventBatch) -> None:
        self._rates.fold(batch)
        self._now_ns, self._wall_offset_ns = batch.now_ns, batch.wall_offset_ns

    def take(self, moment: Moment) -> Snapshot:
        """The picture after the batches so far, at this moment."""
        run = self._run
        counts = self._rates.counts()[:, :-1]
        return Snapshot(
            time=f"{np.datetime_as_string(np.datetime64(self._now_ns + self._wall_offset_ns, 'ns'), unit='ns')}Z",
            host=run.host,
            kernel=run.capture.facts.release,
            hooks=describe_hooks(run.capture.hooks),
            uptime_s=round((self._now_ns - run.began_ns) / 1e9, 3),
            states=states(moment),
            exact=moment.baseline is not None and moment.baseline.exact,
            rates=self._rates.per_second(),
            history=dict(zip(RATES, counts.tolist(), strict=True)),
            totals=totals(run, moment.counters),
            lost=dict(run.lost),
            use=self._use(),
        )

    def _use(self) -> SelfUse:
        before, (then, spent) = (time.monotonic(), self._cpu_s()), self._cpu
        self._cpu = before
        elapsed = max(before[0] - then, 1e-9)
        return SelfUse(
            cpu_ratio=round((before[1] - spent) / elapsed, 4),
            rss_bytes=self._process.memory_info().rss,
            ring_fill_ratio=round(self._run.capture.ring_high / self._run.capture.ring_capacity, 4),
        )

    def _cpu_s(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)


def states(moment: Moment) -> dict[str, int | None]:
    """Sockets by state, or nothing while the baseline is not known."""
    if moment.baseline is None:
        return {}
    now = moment.baseline.states + state_changes(moment.counters.transitions[0])
    gauges: dict[str, int | None] = {STATE_NAMES[s]: int(now[s]) for s in State if s not in NOT_GAUGES}
    return gauges | {"TIME_WAIT": moment.time_wait}


def totals(run: Run, counters: CounterTotals) -> dict[str, int]:
    """Since the start, by the exact counters but for `events`, which is what reached us."""
    return {
        "events": run.events,
        "transitions": int(counters.transitions[0].sum()),
        "transitions_elsewhere": int(counters.transitions[1].sum()),
        "accepts": int(counters.accepts.sum()),
        "other_protocols": counters.other_protocols,
        "filtered": counters.filtered,
    }


@contextmanager
def screen(as_json: bool, footer: Callable[[], str] | None = None) -> Iterator[Show]:
    """
    How pictures are shown: as JSON Lines, on the whole terminal, or, where there is none, one block after the other.

    Args:
        as_json: the first of these.
        footer: a line below each picture on the terminal.
    """
    if as_json:
        yield lambda snapshot: print(to_json(snapshot), flush=True)
        return
    console = Console(highlight=False)
    blocks = BLOCKS if "utf" in console.encoding else ASCII_BLOCKS

    def picture(snapshot: Snapshot) -> RenderableType:
        if footer is None or not console.is_terminal:
            return render(snapshot, console.width, console.height if console.is_terminal else 24, blocks)
        line = Text(footer(), style="reverse", no_wrap=True, overflow="ellipsis")
        return Group(render(snapshot, console.width, console.height - 1, blocks), line)

    if console.is_terminal:
        with Live(console=console, screen=True, auto_refresh=False) as terminal:
            terminal.update(Text("tcptrace: waiting for the first second"), refresh=True)
            yield lambda snapshot: terminal.update(picture(snapshot), refresh=True)
    else:
        yield lambda snapshot: console.print(picture(snapshot), Text(""))
