# SPDX-License-Identifier: Apache-2.0
"""The console: keys in, pictures out."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np
from rich.console import Console

from tracer.cli.painter import Painter, ansi_lines
from tracer.cli.pictures import Pictures
from tracer.cli.run import Run
from tracer.cli.terminal import Terminal
from tracer.errors import UsageError
from tracer.events.batch import EventBatch
from tracer.events.schema import EventArray
from tracer.reconcile.cgroups import CgroupPaths
from tracer.state.connections import OPEN_DTYPE, ConnectionArray
from tracer.state.recent import Failure, Recent
from tracer.state.snapshot import Snapshot
from tracer.state.sockets import OWNER_NAMES, PidSource, SocketTable
from tracer.views.columns import Rows
from tracer.views.connections import ConnectionRows
from tracer.views.console.choosing import Chosen, Test, choose, parse_filter
from tracer.views.console.controls import PAGES, TOP_ORDERS, Controls, press
from tracer.views.console.panels import Look
from tracer.views.console.picture import Courses, Picture
from tracer.views.console.screen import page_rows, plain_lines, screen_lines

POLL_S = 0.1
TOP = 20
NO_CONNECTIONS = np.zeros(0, dtype=OPEN_DTYPE)


@dataclass(frozen=True, slots=True)
class Moment:
    """
    What pictures of one moment are drawn from; a paused console keeps one.

    Attributes:
        snapshot: since the last reset.
        since_s: how long that is ago; 0 without one.
        connections, ended: shape (n,), OPEN_DTYPE and ENDED_DTYPE.
        events: shape (n,), EVENT_DTYPE, the last ones.
        now_ns, wall_offset_ns: the time.
    """

    snapshot: Snapshot
    since_s: float
    connections: ConnectionArray
    ended: ConnectionArray
    events: EventArray
    failures: Sequence[Failure]
    now_ns: int
    wall_offset_ns: int


class ConsoleView:
    """The state as the console shows it: takes moments of it and makes pictures of them."""

    def __init__(self, pictures: Pictures, controls: Controls) -> None:
        self._pictures = pictures
        self._recent = Recent()
        pictures.recent = self._recent
        self._courses = Courses()
        self._cgroups = CgroupPaths()
        self._base: Snapshot | None = None
        self._moment: Moment | None = None
        self._test: Test = parse_filter("")
        self._batch_time = (0, 0)
        self.controls = controls
        self.message = ""

    def fold(self, batch: EventBatch) -> None:
        self._pictures.fold(batch)
        self._batch_time = (batch.now_ns, batch.wall_offset_ns)

    def press(self, key: str) -> None:
        """Takes a key in."""
        before, self.controls = self.controls, press(self.controls, key)
        self.message = ""
        if self.controls.resets != before.resets:
            self._reset()
        if self.controls.filter != before.filter:
            self._set_filter(before)
        if self._must_look_again(before):
            self._moment = None

    def _must_look_again(self, before: Controls) -> bool:
        """Whether what is shown now needs more than the last moment has: when the picture is halted, and on another page."""
        now = self.controls
        return not before.paused if now.paused else now.page != before.page

    def _set_filter(self, before: Controls) -> None:
        try:
            self._test = parse_filter(self.controls.filter)
        except UsageError as error:
            self.message = f"{error.problem}: {error.advice}"
            self.controls = replace(self.controls, filter=before.filter)

    def _reset(self) -> None:
        self._base = self._pictures.take()
        self._recent = self._pictures.recent = Recent()
        self._moment = None

    def advance(self) -> None:
        """Takes a new moment, unless paused."""
        snapshot = self._pictures.take()
        self._courses.add(snapshot)
        if self.controls.paused and self._moment is not None:
            return
        shown, since_s = since(snapshot, self._base)
        now_ns, wall_offset_ns = self._batch_time
        # The connections are copied only for the page that shows them.
        connections = self._pictures.state.connections()
        recent = self._recent
        self._moment = Moment(shown, since_s, connections, recent.ended(), recent.events(), recent.failures(), now_ns, wall_offset_ns)

    def picture(self, rows: int) -> Picture:
        """The picture of the current moment for a page of so many lines."""
        if self._moment is None:
            self.advance()
        moment, controls = self._moment, self.controls
        assert moment is not None  # advance() takes one
        picture = Picture(
            snapshot=moment.snapshot,
            courses=self._courses.by_state(),
            top=self._top(moment),
            failures=moment.failures,
            now_ns=moment.now_ns,
            since_s=moment.since_s,
            message=self.message,
            controls=controls,
        )
        if PAGES[controls.page] == "connections":
            chosen = self._chosen(moment, rows - 2)
            shown = ConnectionRows(chosen.connections, moment.wall_offset_ns, self._cgroups)
            return replace(picture, connections=shown, matching=chosen.matching, existing=chosen.existing)
        if PAGES[controls.page] == "events":
            return replace(picture, events=self._events(moment))
        return picture

    def _chosen(self, moment: Moment, rows: int) -> Chosen:
        connections = moment.ended if self.controls.ended else moment.connections
        return choose(connections, self._test, self.controls, max(rows, 0), moment.now_ns)

    def _top(self, moment: Moment) -> dict[str, dict[str, list[tuple[str, int]]]]:
        order = TOP_ORDERS[self.controls.top_order]
        if order == "open":
            return {order: open_tops(moment.snapshot)}
        return {order: self._recent.top(moment.now_ns, order == "failed", TOP)}

    def _events(self, moment: Moment) -> Rows:
        """The last events that match, with what is known of their sockets."""
        events = moment.events
        context = SocketTable().fold(EventBatch(events, moment.now_ns, moment.wall_offset_ns))
        known = self._pictures.state.remembered(events["sock"])
        unowned = np.flatnonzero((context["pid_source"] == PidSource.NONE) & (known["pid_source"] != PidSource.NONE))
        for name in OWNER_NAMES:
            context[name][unowned] = known[name][unowned]
        context["pid_source"][unowned] = PidSource.CACHED
        return Rows(events, context, moment.wall_offset_ns).only(self._test(events))


def open_tops(snapshot: Snapshot) -> dict[str, list[tuple[str, int]]]:
    """The snapshot's top lists as names and counts."""
    tops = snapshot.top
    return {
        "processes": [(f"{row['comm']}[{row['pid']}]", row["open"]) for row in tops.get("processes", [])],
        "local_ports": [(str(row["port"]), row["open"]) for row in tops.get("local_ports", [])],
        "remote_addresses": [(str(row["address"]), row["open"]) for row in tops.get("remote_addresses", [])],
    }


def since(snapshot: Snapshot, base: Snapshot | None) -> tuple[Snapshot, float]:
    """The snapshot with counts that begin at *base*, and how long that is ago."""
    if base is None:
        return snapshot, 0.0
    seconds = snapshot.uptime_s - base.uptime_s
    shown = msgspec.structs.replace(
        snapshot,
        totals=minus(snapshot.totals, base.totals),
        lost={reason: count for reason, count in minus(snapshot.lost, base.lost).items() if count},
        history={name: values[-max(int(seconds), 1) :] for name, values in snapshot.history.items()},
    )
    return shown, seconds


def minus(counts: dict[str, int], base: dict[str, int]) -> dict[str, int]:
    return {name: count - base.get(name, 0) for name, count in counts.items()}


def run_console(run: Run, view: ConsoleView, terminal: Terminal, fd: int, console: Console, look: Look) -> None:
    """Draws until the capture ends or the user leaves; *fd* is where."""
    due = time.monotonic()
    run.capture.wake_on(terminal.fd)
    with Painter(fd) as painter:
        for batch in run.batches(POLL_S):
            run.room(len(batch))
            view.fold(batch)
            pressed = terminal.keys()
            redraws = view.controls.redraws
            for key in pressed:
                view.press(key)
            if view.controls.quits or terminal.gone:
                run.stop.ask()
            anew = terminal.has_changed() or view.controls.redraws != redraws
            if time.monotonic() >= due:
                view.advance()
                due = max(due + view.controls.refresh_s, time.monotonic())
            elif not pressed and not anew:
                continue
            if terminal.active:
                draw(view, painter, terminal.size(), anew, console, look)


def draw(view: ConsoleView, painter: Painter, size: tuple[int, int], anew: bool, console: Console, look: Look) -> None:
    width, height = size
    lines = screen_lines(view.picture(page_rows(height)), width, height, look)
    painter.paint(ansi_lines(console, lines, width), anew)


def run_plain(run: Run, pictures: Pictures, controls: Controls, console: Console, look: Look, once: bool) -> None:
    """One block of text a refresh, for a file, a pipe, or a terminal that can nothing else; or a single one."""
    view = ConsoleView(pictures, controls)
    due = time.monotonic() + controls.refresh_s
    for batch in run.batches(POLL_S):
        run.room(len(batch))
        view.fold(batch)
        if time.monotonic() >= due:
            print_block(view, console, look)
            due = max(due + controls.refresh_s, time.monotonic())
            if once:
                run.stop.ask()
                return
    print_block(view, console, look)


def print_block(view: ConsoleView, console: Console, look: Look) -> None:
    view.advance()
    for line in plain_lines(view.picture(30), console.width, look):
        line.rstrip()
        console.print(line, no_wrap=True, overflow="crop")
    console.print()
