# SPDX-License-Identifier: Apache-2.0
"""The panels of the overview: each draws itself into a width and a number of lines."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.text import Text

from tracer.events.addresses import short_endpoint_text
from tracer.views.console.charts import bars, percentile, sparkline
from tracer.views.console.controls import TOP_ORDERS
from tracer.views.console.picture import Picture
from tracer.views.console.theme import Signs, Theme
from tracer.views.table import printable, span_text

#: In the order of display.
STATES = (
    "LISTEN",
    "SYN_SENT",
    "SYN_RECV",
    "ESTABLISHED",
    "FIN_WAIT1",
    "FIN_WAIT2",
    "CLOSE_WAIT",
    "LAST_ACK",
    "CLOSING",
    "TIME_WAIT",
)
#: Where there is no room for all, these go first.
SELDOM = ("CLOSING", "LAST_ACK", "FIN_WAIT1", "SYN_RECV", "FIN_WAIT2", "SYN_SENT")
#: Connections that pile up in these mean that somebody does not do their part: the own program, or the network.
WORRYING = ("SYN_SENT", "CLOSE_WAIT", "SYN_RECV")
RATES = ("opened", "accepted", "closed", "failed")
LATENCIES = {"handshake": "handshake", "accept_wait": "accept wait", "lifetime": "lifetime"}
TOP_TITLES = {"processes": "PROCESS", "local_ports": "LOCAL PORT", "remote_addresses": "REMOTE ADDRESS"}
TOP_UNITS = {"open": "open", "rate": "ended/min", "failed": "failed/min"}


@dataclass(frozen=True, slots=True)
class Look:
    """How to draw: colours and signs."""

    theme: Theme
    signs: Signs


Draw = Callable[[Picture, int, int, Look], list[Text]]


@dataclass(frozen=True, slots=True)
class Panel:
    """
    Attributes:
        draw: its lines for a picture, a width and a number of lines; it may give fewer.
        least, most: lines that it needs and can use well.
        rank: the highest is given up first.
        stretches: it takes what nobody else can use, too.
    """

    draw: Draw
    least: int
    most: int
    rank: int
    stretches: bool = False


def text(content: str, width: int, style: str = "") -> Text:
    """A line of at most *width* columns; what is appended has its own style."""
    return Text(no_wrap=True).append(content[:width], style)


def cut(content: str, width: int, look: Look) -> str:
    """A name made harmless and, where it is too long, cut with a sign."""
    harmless = printable(content)
    return harmless if len(harmless) <= width else harmless[: max(width - 1, 0)] + look.signs.cut


def change_text(course: Sequence[int], look: Look) -> str:
    """How a number has changed since the beginning of its course."""
    change = course[-1] - course[0] if course else 0
    return f"{look.signs.rises if change > 0 else look.signs.falls}{count_text(abs(change))}" if change else ""


def count_text(count: int) -> str:
    """A number in at most seven columns: 999,999, 1.5M."""
    return f"{count:,}" if count < 1_000_000 else f"{count / 1e6:.3g}M" if count < 1e9 else f"{count / 1e9:.3g}G"


def shown_states(rows: int) -> list[str]:
    """The states that fit, in their order."""
    hidden = SELDOM[: max(len(STATES) - rows, 0)]
    return [state for state in STATES if state not in hidden][:rows]


def states(picture: Picture, width: int, rows: int, look: Look) -> list[Text]:
    """Sockets by state, the change within the last minute, and its course."""
    narrow = width < 44
    room = max(width - (30 if narrow else 33), 0)
    counts = 8 if narrow else 9
    changes = 8 if narrow else 10
    approximate = "" if picture.snapshot.exact else "~"
    lines = [
        text(
            f"{'STATE':<12}{approximate + 'SOCKETS':>{counts}}{'CHANGE':>{changes}}  {'LAST MINUTE' if room >= 11 else ''}",
            width,
            look.theme.title,
        )
    ]
    for state in shown_states(rows - 1):
        count = picture.snapshot.states.get(state)
        course = picture.courses.get(state, ())
        change = change_text(course, look)
        worries = state in WORRYING and bool(course) and course[-1] > 2 * course[0] + 10
        line = text(f"{state:<12}", width, "" if count else look.theme.quiet)
        line.append(
            f"{'-' if count is None else f'{count:,}':>{counts}}", look.theme.warn if worries else "" if count else look.theme.quiet
        )
        line.append(f"{change:>{changes}}  ", look.theme.quiet)
        line.append(sparkline(course[-60:], room, look.signs.blocks) if count or any(course) else "", look.theme.rate("opened"))
        lines.append(line)
    return lines


def rates(picture: Picture, width: int, rows: int, look: Look) -> list[Text]:
    """A chart for each rate, a bar a second, with the distribution of what it shows."""
    lines: list[Text] = []
    for number, name in enumerate(RATES):
        # What cannot be divided evenly goes to the first ones.
        height = max((rows + len(RATES) - 1 - number) // len(RATES) - 1, 0)
        values = rate_history(picture, name)
        now = picture.snapshot.rates.get(name, 0)
        style = look.theme.bad if name == "failed" and now else look.theme.title
        line = text(f"{name:<9}{now:>9,}/s", width, style)
        line.append("   " + distribution(values, width - line.cell_len - 3), look.theme.quiet)
        lines.append(line)
        lines += [text(row, width, look.theme.rate(name)) for row in bars(padded(values, width), height, look.signs.blocks)]
    return lines


def distribution(values: Sequence[int], width: int) -> str:
    """As much of the values' distribution as fits."""
    most = f"max {max(values, default=0):,}"
    for percents in ((50, 90, 99), (50, 99), (99,), ()):
        shown = "  ".join([*(f"p{p} {percentile(values, p):,}" for p in percents), most])
        if len(shown) <= width:
            return shown
    return ""


def rate_history(picture: Picture, name: str) -> Sequence[int]:
    """A rate in each second of the capture, as far back as it is known."""
    return picture.snapshot.history.get(name, [])[-max(int(picture.snapshot.uptime_s), 1) :]


def padded(values: Sequence[int], width: int) -> list[int]:
    """As many values as there are columns, the latest at the right."""
    shown = list(values[-width:])
    return [0] * (width - len(shown)) + shown


def latency(picture: Picture, width: int, rows: int, look: Look) -> list[Text]:
    """How long handshakes, the wait in the accept queue, and whole connections took within the last minute."""
    lines = [text(f"{'LATENCY':<12}{'p50':>9}{'p90':>8}{'p99':>8}{'COUNT':>9}", width, look.theme.title)]
    for name, label in LATENCIES.items():
        found = picture.snapshot.latency.get(name, {})
        values = "".join(f"{span_text(found.get(f'p{p}_us')):>{9 if p == 50 else 8}}" for p in (50, 90, 99))
        count = found.get("count") or 0
        lines.append(text(f"{label:<12}{values}{count:>9,}", width, "" if count else look.theme.quiet))
    return lines[:rows]


def ports(picture: Picture, width: int, rows: int, look: Look) -> list[Text]:
    """The ephemeral ports and the destinations that use most of them."""
    usage = picture.snapshot.ports
    title = text("PORTS", width, look.theme.title)
    if not usage.get("range"):
        return [title.append("  range not known", look.theme.quiet)]
    low, high = usage["range"]
    share = usage.get("usage_ratio") or 0.0
    title.append(f"  {low}-{high}" if width >= 44 else "").append(f"  {usage['used']:,} of {usage['available']:,} used ")
    title.append(f"{share:.1%}", usage_style(share, look))
    title.truncate(width)
    lines = [title]
    if usage.get("time_wait") is None and picture.snapshot.states.get("TIME_WAIT"):
        lines.append(text("  without those that TIME_WAIT holds", width, look.theme.quiet))
    for row in usage["by_destination"][: rows - len(lines)]:
        end = short_endpoint_text(row["address"], row["port"], max(width - 17, 12))
        line = text(f"  {end:<{max(width - 17, 12)}}{row['used']:>8,} ", width)
        lines.append(line.append(f"{row['usage_ratio'] or 0:>5.1%}", usage_style(row["usage_ratio"] or 0.0, look)))
    return lines


def usage_style(share: float, look: Look) -> str:
    return look.theme.bad if share >= 0.9 else look.theme.warn if share >= 0.7 else ""


def top_below(picture: Picture, width: int, rows: int, look: Look) -> list[Text]:
    """Who has most: processes, local ports, remote addresses, as many as fit below each other."""
    found = picture.top.get(TOP_ORDERS[picture.controls.top_order], {})
    names = list(TOP_TITLES)
    each = max(rows // len(names), 2)
    shown = names[: max(rows // each, 1)]
    return [line for name in shown for line in top_list(name, found.get(name, ()), width, each, picture, look)][:rows]


def top(picture: Picture, width: int, rows: int, look: Look) -> list[Text]:
    """The same side by side, where there is room for more than one."""
    found = picture.top.get(TOP_ORDERS[picture.controls.top_order], {})
    names = list(TOP_TITLES)
    beside = 3 if width >= 96 else 2 if width >= 58 else 1
    if beside == 1:
        return top_below(picture, width, rows, look)
    part = (width - 2 * (beside - 1)) // beside
    columns = [top_list(name, found.get(name, ()), part, rows, picture, look) for name in names[:beside]]
    return beside_each_other(columns, part, 2)


def top_list(name: str, entries: Sequence[tuple[str, int]], width: int, rows: int, picture: Picture, look: Look) -> list[Text]:
    unit = TOP_UNITS[TOP_ORDERS[picture.controls.top_order]]
    room = width - 11
    lines = [text(f"{TOP_TITLES[name]:<{room}}{unit:>11}", width, look.theme.title)]
    lines += [text(f"{cut(label, room, look):<{room}}{count:>11,}", width) for label, count in entries[: rows - 1]]
    return lines if entries else [*lines, text("-", width, look.theme.quiet)][:rows]


def failures(picture: Picture, width: int, rows: int, look: Look) -> list[Text]:
    """The last connections that failed, and why."""
    lines = [text(f"RECENT FAILURES{'' if picture.failures else f'  {look.signs.fine}none'}", width, look.theme.title)]
    for failure in picture.failures[: rows - 1]:
        age = span_text(max(picture.now_ns - failure.ts_ns, 0) / 1000)
        owner = cut(f"{failure.comm}[{failure.pid}]" if failure.pid else "-", 15, look) if width >= 60 else ""
        count = f" x{failure.count:,}" if failure.count > 1 else ""
        room = width - 23 - len(count) - (16 if owner else 0)
        end = short_endpoint_text(failure.address, failure.port, max(room, 8))
        line = text(f"{age:>6} ", width, look.theme.quiet)
        line.append(f"{failure.outcome:<15} ", look.theme.bad)
        line.append((f"{owner:<15} " if owner else "") + end + count)
        line.truncate(width)
        lines.append(line)
    return lines


def alerts(picture: Picture, width: int, rows: int, look: Look) -> list[Text]:
    """What needs attention, with advice."""
    return [text(f"{look.signs.alert}{alert_text(alert)}", width, look.theme.bad) for alert in picture.snapshot.alerts[:rows]]


def alert_text(alert: Any) -> str:
    return printable(alert.get("message", "") if isinstance(alert, dict) else str(alert))


def beside_each_other(columns: Sequence[Sequence[Text]], width: int, gap: int) -> list[Text]:
    """Columns of lines as one, each *width* wide."""
    height = max(map(len, columns), default=0)
    lines = []
    for row in range(height):
        line = Text(no_wrap=True)
        for number, column in enumerate(columns):
            part = column[row].copy() if row < len(column) else Text()
            if number < len(columns) - 1:
                part.truncate(width, pad=True)
                part.append(" " * gap)
            line.append_text(part)
        lines.append(line)
    return lines
