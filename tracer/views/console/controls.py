# SPDX-License-Identifier: Apache-2.0
"""What the user has chosen, and what each key changes: pure, so that any sequence of keys can be tried without a terminal."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

PAGES = ("overview", "connections", "events", "help")
#: What the top lists are ordered by, and the connections.
TOP_ORDERS = ("open", "rate", "failed")
CONNECTION_ORDERS = ("age", "pid", "comm", "state", "local", "remote", "retransmits")
REFRESHES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)


@dataclass(frozen=True, slots=True)
class Controls:
    """
    Attributes:
        page: number in PAGES.
        paused: the picture stands still; the capture goes on.
        top_order, order: numbers in TOP_ORDERS and CONNECTION_ORDERS; *reverse* turns the latter around.
        filter: what the connections and events shown must match; *draft* is one that is being typed.
        ended: the connections page shows those that have ended.
        scroll: lines left out at the top of the page.
        refresh_s: seconds between two pictures.
        resets: how often the counts were set back.
        redraws: how often the screen was to be drawn anew.
        quits: the user wants to leave.
    """

    page: int = 0
    paused: bool = False
    top_order: int = 0
    order: int = 0
    reverse: bool = False
    filter: str = ""
    draft: str | None = None
    ended: bool = False
    scroll: int = 0
    refresh_s: float = 1.0
    resets: int = 0
    redraws: int = 0
    quits: bool = False


def press(controls: Controls, key: str) -> Controls:
    """What the user has chosen after a key; the same for a key that means nothing."""
    if controls.draft is not None:
        return _type(controls, key)
    change = KEYS.get(key)
    return change(controls) if change else controls


def _type(controls: Controls, key: str) -> Controls:
    """A key while a filter is typed."""
    draft = controls.draft or ""
    if key == "enter":
        return replace(controls, filter=draft.strip(), draft=None, scroll=0)
    if key == "escape":
        return replace(controls, draft=None)
    if key == "backspace":
        return replace(controls, draft=draft[:-1])
    if key == "kill_line":
        return replace(controls, draft="")
    return replace(controls, draft=draft + key) if len(key) == 1 else controls


def _go(page: int) -> Callable[[Controls], Controls]:
    return lambda c: replace(c, page=page, scroll=0)


def _turn(step: int) -> Callable[[Controls], Controls]:
    return lambda c: replace(c, page=(c.page + step) % len(PAGES), scroll=0)


def _scroll(lines: int) -> Callable[[Controls], Controls]:
    return lambda c: replace(c, scroll=max(c.scroll + lines, 0))


def _sort(c: Controls) -> Controls:
    if PAGES[c.page] == "overview":
        return replace(c, top_order=(c.top_order + 1) % len(TOP_ORDERS))
    return replace(c, order=(c.order + 1) % len(CONNECTION_ORDERS), reverse=False, scroll=0)


def _edit_filter(c: Controls) -> Controls:
    return replace(c, draft=c.filter, page=c.page if PAGES[c.page] in ("connections", "events") else PAGES.index("connections"))


def _refresh(faster: bool) -> Callable[[Controls], Controls]:
    def change(c: Controls) -> Controls:
        others = [s for s in REFRESHES if (s < c.refresh_s if faster else s > c.refresh_s)]
        return replace(c, refresh_s=(others[-1] if faster else others[0])) if others else c

    return change


def _escape(c: Controls) -> Controls:
    return replace(c, page=0, scroll=0) if PAGES[c.page] == "help" else replace(c, filter="", scroll=0)


KEYS: Mapping[str, Callable[[Controls], Controls]] = {
    "q": lambda c: replace(c, quits=True),
    "h": _go(PAGES.index("help")),
    "?": _go(PAGES.index("help")),
    "p": lambda c: replace(c, paused=not c.paused),
    " ": lambda c: replace(c, paused=not c.paused),
    "1": _go(0),
    "2": _go(1),
    "3": _go(2),
    "4": _go(3),
    "tab": _turn(1),
    "back_tab": _turn(-1),
    "right": _turn(1),
    "left": _turn(-1),
    "s": _sort,
    "S": lambda c: replace(c, reverse=not c.reverse, scroll=0),
    "/": _edit_filter,
    "escape": _escape,
    "t": lambda c: replace(c, ended=not c.ended, page=PAGES.index("connections"), scroll=0),
    "r": lambda c: replace(c, resets=c.resets + 1),
    "+": _refresh(faster=True),
    "=": _refresh(faster=True),
    "-": _refresh(faster=False),
    "up": _scroll(-1),
    "k": _scroll(-1),
    "down": _scroll(1),
    "j": _scroll(1),
    "page_up": _scroll(-20),
    "page_down": _scroll(20),
    "home": lambda c: replace(c, scroll=0),
    "g": lambda c: replace(c, scroll=0),
    "redraw": lambda c: replace(c, redraws=c.redraws + 1),
}

#: For the help page: keys and what they do.
KEY_HELP: tuple[tuple[str, str], ...] = (
    ("1 2 3 4, Tab", "overview, connections, events, help; the next page"),
    ("s, S", "order of the connections or of the top lists; the other way round"),
    ("/", "filter: words that must all match, such as: port:443 comm:nginx"),
    ("Esc", "no filter"),
    ("t", "connections: the open ones, or those that have ended"),
    ("p, Space", "pause: the picture stands still, the capture goes on"),
    ("r", "count from now on"),
    ("+, -", "refresh more often, less often"),
    ("j k, arrows", "scroll; PgUp, PgDn by pages, g or Home to the top"),
    ("Ctrl-L", "draw the screen anew"),
    ("q, Ctrl-C", "leave; Ctrl-Z stops, fg goes on"),
)
