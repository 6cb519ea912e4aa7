# SPDX-License-Identifier: Apache-2.0
"""The console: keys in, pictures out."""

import select
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np
from rich.console import Console

from tracer.cli.painter import LinePrinter, Painter
from tracer.cli.pictures import Pictures
from tracer.cli.recorded import RecordedCapture
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
from tracer.views.connections import CgroupNames, ConnectionRows
from tracer.views.console.choosing import Chosen, Test, choose, parse_filter
from tracer.views.console.controls import PAGES, TOP_ORDERS, Controls, press
from tracer.views.console.panels import Look
from tracer.views.console.picture import Courses, Picture
from tracer.views.console.screen import page_rows, screen_lines

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
    """The state as the console shows it: moments of it, and pictures of them."""

    def __init__(self, controls: Controls) -> None:
        self.controls = controls
        self.message = ""
        self._test: Test = parse_filter("")
        self._cgroups: CgroupNames = CgroupPaths()

    def attach(self, pictures: Pictures) -> None:
        """Says whose pictures are shown from now on; what was of others is forgotten."""
        self._pictures = pictures
        self._recent = pictures.recent = Recent()
        self._courses = Courses()
        self._snapshot: Snapshot | None = None
        self._base: Snapshot | None = None
        self._moment: Moment | None = None
        if isinstance(pictures.run.capture, RecordedCapture):
            self._cgroups = pictures.run.capture.cgroups

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show yet."""
        return self._snapshot is None

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
        self._base = self._snapshot
        self._recent = self._pictures.recent = Recent()
        self._moment = None

    def advance(self, snapshot: Snapshot) -> None:
        """Moves on to a snapshot, unless paused."""
        self._snapshot = snapshot
        self._courses.add(snapshot)
        if not self.controls.paused:
            self._moment = None

    def _look(self) -> Moment:
        """The moment that is shown."""
        if self._moment is None:
            assert self._snapshot is not None  # advance() comes first
            shown, since_s = since(self._snapshot, self._base)
            # All connections are copied only where they are shown, or may be while the picture stands still.
            complete = self.controls.paused or PAGES[self.controls.page] == "connections"
            connections = self._pictures.state.connections() if complete else NO_CONNECTIONS
            recent, pictures = self._recent, self._pictures
            self._moment = Moment(
                shown,
                since_s,
                connections,
                recent.ended(),
                recent.events(),
                recent.failures(),
                pictures.now_ns,
                pictures.wall_offset_ns,
            )
        return self._moment

    def picture(self, rows: int, status: str = "") -> Picture:
        """The picture of the current moment for a page of so many lines."""
        moment, controls = self._look(), self.controls
        picture = Picture(
            snapshot=moment.snapshot,
            courses=self._courses.by_state(),
            top=self._top(moment),
            failures=moment.failures,
            now_ns=moment.now_ns,
            since_s=moment.since_s,
            message=self.message,
            status=status,
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


class ConsoleScreen:
    """
    The console on a terminal: a Screen.

    Args:
        terminal: where keys come from, and its size.
        painter: draws on it.
        console: turns styles into what the terminal understands.
        look: colours and signs.
        refresh_s: seconds between two pictures.
    """

    reads_keys = True

    def __init__(self, terminal: Terminal, painter: Painter, console: Console, look: Look, refresh_s: float) -> None:
        self._terminal, self._painter, self._printer, self._look = terminal, painter, LinePrinter(console), look
        self._view = ConsoleView(Controls(refresh_s=refresh_s))
        self._replay_keys: deque[str] = deque()
        self.status: Callable[[], str] | None = None

    @property
    def refresh_s(self) -> float:
        return self._view.controls.refresh_s

    def attach(self, pictures: Pictures) -> None:
        self._view.attach(pictures)

    def show(self, snapshot: Snapshot) -> None:
        self._view.advance(snapshot)
        self._draw()

    def glance(self) -> bool:
        before = self._view.controls
        keys = self._terminal.keys()
        for key in keys:
            self._press(key)
        anew = self._terminal.has_changed() or self._view.controls.redraws != before.redraws
        if keys or anew:
            self._draw(anew)
        return self._view.controls.quits or self._terminal.gone

    def _press(self, key: str) -> None:
        if self.status is not None and self._view.controls.draft is None and key in REPLAY_KEYS:
            self._replay_keys.append(REPLAY_KEYS[key])
        else:
            self._view.press(key)

    def wait(self, seconds: float) -> str:
        end = time.monotonic() + seconds
        while True:
            leaves = self.glance()
            if self._replay_keys:
                return self._replay_keys.popleft()
            if leaves:
                return "q"
            left = end - time.monotonic()
            if left <= 0:
                return ""
            select.select([self._terminal.fd], [], [], left)

    def _draw(self, anew: bool = False) -> None:
        if not self._terminal.active or self._view.is_empty:
            return
        width, height = self._terminal.size()
        picture = self._view.picture(page_rows(height), self.status() if self.status is not None else "")
        self._painter.paint(self._printer.print(screen_lines(picture, width, height, self._look), width), anew)


#: What these keys mean in a replay.
REPLAY_KEYS = {key: key for key in ("+", "-", "left", "right", "home")} | {"=": "+", " ": " ", "p": " "}
