# SPDX-License-Identifier: Apache-2.0
"""The whole screen: header, a page, footer. Pure: the command owns the terminal."""

from collections.abc import Mapping, Sequence

from rich.console import Group
from rich.text import Text

from tracer.views.console import pages
from tracer.views.console.charts import clock_text
from tracer.views.console.controls import PAGES, TOP_ORDERS
from tracer.views.console.overview import overview
from tracer.views.console.panels import Draw, Look, text
from tracer.views.console.picture import Picture
from tracer.views.console.theme import THEMES, UNICODE
from tracer.views.table import printable

MINIMUM_SIZE = (60, 15)
DEFAULT_LOOK = Look(THEMES["dark"], UNICODE)
HEADER, FOOTER = 3, 1

DRAWS: Mapping[str, Draw] = {
    "overview": overview,
    "connections": pages.connections,
    "events": pages.events,
    "help": pages.help_page,
}

FOOTERS: Sequence[tuple[str, str]] = (
    ("q", "quit"),
    ("?", "help"),
    ("Tab", "page"),
    ("/", "filter"),
    ("s", "sort"),
    ("t", "ended"),
    ("p", "pause"),
    ("r", "reset"),
    ("+-", "refresh"),
)


def page_rows(height: int) -> int:
    """Lines of a page in a screen of this height."""
    return max(height - HEADER - FOOTER, 0)


def screen_lines(picture: Picture, width: int, height: int, look: Look = DEFAULT_LOOK) -> list[Text]:
    """Exactly *height* lines of at most *width* columns; a terminal that is too small gets one that says so."""
    if width < MINIMUM_SIZE[0] or height < MINIMUM_SIZE[1]:
        small = text(f"tcptrace needs {MINIMUM_SIZE[0]}x{MINIMUM_SIZE[1]}, this is {width}x{height}", width)
        return [small, *(Text() for _ in range(height - 1))]
    draw = DRAWS[PAGES[picture.controls.page]]
    body = draw(picture, width, page_rows(height), look)
    body += [Text()] * (page_rows(height) - len(body))
    return [*header(picture, width, look), *body, footer(picture, width, look)]


def render(picture: Picture, width: int, height: int, look: Look = DEFAULT_LOOK) -> Group:
    """The screen as something that Rich can print."""
    return Group(*screen_lines(picture, width, height, look))


def plain_lines(picture: Picture, width: int, look: Look) -> list[Text]:
    """A picture where there is no terminal: the header and all panels of the overview, as high as they are."""
    return [*header(picture, width, look)[:2], Text(), *overview(picture, width, 30, look)]


def header(picture: Picture, width: int, look: Look) -> list[Text]:
    """What is watched and how well, in two lines, and the pages."""
    return [first_line(picture, width, look), second_line(picture, width, look), page_line(picture, width, look)]


def first_line(picture: Picture, width: int, look: Look) -> Text:
    snapshot = picture.snapshot
    line = text("tcptrace", width, look.theme.title)
    hooks = " ".join(f"{hook}={snapshot.hooks[hook]}" for hook in ("state", "accept") if hook in snapshot.hooks)
    line.append(f"  {printable(snapshot.host)}  {snapshot.kernel}  up {clock_text(snapshot.uptime_s)}  {hooks}")
    return fitted(line, width, look)


def second_line(picture: Picture, width: int, look: Look) -> Text:
    """The numbers that say whether the others can be trusted, and what they cost."""
    snapshot, theme = picture.snapshot, look.theme
    line = text(f"{snapshot.totals['events']:,} events {snapshot.rates['events']:,}/s  ", width)
    line.append(f"lost {snapshot.lost_total:,}", theme.bad if snapshot.lost_total else theme.good)
    if snapshot.drift is not None:
        line.append("  ").append(f"drift {snapshot.drift.total:,}", theme.warn if snapshot.drift.total else theme.good)
    use = snapshot.use
    line.append(f"  ring {use.ring_fill_ratio:.0%}  cpu {use.cpu_ratio:.1%}  mem {use.rss_bytes / 1e6:.0f}M", theme.quiet)
    if picture.since_s:
        line.append(f"  since {clock_text(picture.since_s)}", theme.warn)
    return fitted(line, width, look)


def page_line(picture: Picture, width: int, look: Look) -> Text:
    line = text("", width)
    for number, name in enumerate(PAGES):
        line.append(f" {number + 1} {name.capitalize()} ", look.theme.chosen if number == picture.controls.page else look.theme.quiet)
        line.append(" ")
    if picture.controls.paused:
        line.append(" PAUSED ", look.theme.warn)
    if picture.controls.filter and picture.controls.page in (1, 2):
        line.append(f" filter: {printable(picture.controls.filter)}", look.theme.warn)
    return fitted(line, width, look)


def footer(picture: Picture, width: int, look: Look) -> Text:
    """The keys; or the filter that is being typed; or a message."""
    controls = picture.controls
    if controls.draft is not None:
        line = text("filter: ", width, look.theme.key)
        return fitted(line.append(printable(controls.draft) + "_", look.theme.field), width, look)
    if picture.message:
        return fitted(text(printable(picture.message), width, look.theme.bad), width, look)
    if picture.status:
        return fitted(text(printable(picture.status), width, look.theme.key), width, look)
    line = text("", width)
    for key, meaning in FOOTERS:
        line.append(key, look.theme.key).append(f" {meaning}  ")
    line.append(f"every {controls.refresh_s:g} s", look.theme.quiet)
    if PAGES[controls.page] == "overview":
        line.append(f"  top by {TOP_ORDERS[controls.top_order]}", look.theme.quiet)
    return fitted(line, width, look)


def fitted(line: Text, width: int, look: Look) -> Text:
    """The line, cut with a sign where it is too long."""
    if line.cell_len > width:
        line.truncate(width - 1)
        line.append(look.signs.cut)
    return line
