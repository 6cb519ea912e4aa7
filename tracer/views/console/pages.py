# SPDX-License-Identifier: Apache-2.0
"""The other pages: connections, events, help."""

from rich.text import Text

from tracer.views.connection_table import ENDED_COLUMNS, OPEN_COLUMNS
from tracer.views.console.choosing import EXAMPLES
from tracer.views.console.controls import CONNECTION_ORDERS, KEY_HELP
from tracer.views.console.panels import Look, text
from tracer.views.console.picture import Picture
from tracer.views.table import EventTable, Table


def connections(picture: Picture, width: int, rows: int, look: Look) -> list[Text]:
    """The open connections, or those that have ended: a line that says which, a heading, and as many as fit."""
    controls = picture.controls
    what = "last ended connections" if controls.ended else "open connections"
    order = CONNECTION_ORDERS[controls.order] + (", reversed" if controls.reverse else "")
    count = f"{picture.matching:,} of {picture.existing:,}" if controls.filter else f"{picture.existing:,}"
    lines = [text(f"{count} {what}, by {order}", width, look.theme.quiet)]
    table = Table(ENDED_COLUMNS if controls.ended else OPEN_COLUMNS, width)
    lines.append(text(table.heading(), width, look.theme.title))
    if picture.connections is not None:
        lines += [text(line.rstrip("\n"), width) for line in table.lines(picture.connections)]
    return lines[:rows]


def events(picture: Picture, width: int, rows: int, look: Look) -> list[Text]:
    """The latest events, the newest at the bottom."""
    table = EventTable(width, with_time=width >= 92)
    lines = [text(table.heading(), width, look.theme.title)]
    if picture.events is not None and rows > 1:
        last = picture.events.only(slice(-(rows - 1), None))
        lines += [text(line.rstrip("\n"), width) for line in table.lines(last)]
    return lines[:rows]


def help_page(picture: Picture, width: int, rows: int, look: Look) -> list[Text]:
    """Keys, filters, and what the numbers mean."""
    lines = [text("KEYS", width, look.theme.title)]
    lines += [text(f"  {keys:<14}", width, look.theme.key).append(meaning) for keys, meaning in KEY_HELP]
    lines += [Text(), text("FILTER", width, look.theme.title)]
    examples = list(EXAMPLES.values())
    lines += [text("  " + "  ".join(f"{example:<17}" for example in examples[i : i + 4]), width) for i in range(0, len(examples), 4)]
    lines.append(text("  a word alone: part of a name, an address or a state, or a whole port or PID", width))
    lines += [Text(), text("NUMBERS", width, look.theme.title)]
    lines += [text("  " + line, width) for line in MEANINGS]
    for line in lines:
        line.truncate(width)
    return lines[picture.controls.scroll :][:rows]


MEANINGS = (
    "lost: events that did not reach us; with any, rates and lists are lower bounds, states stay exact",
    "drift: our numbers against the kernel's own, known differences taken off; 0 is right",
    "~SOCKETS: known within bounds only, since the host never rested yet",
    "ring: the fullest the buffer to the kernel ever was; cpu, mem: what tcptrace itself takes",
    "failed: attempts that the network or the host refused; a connect given up by its process is none",
)
