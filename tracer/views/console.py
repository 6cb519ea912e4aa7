# SPDX-License-Identifier: Apache-2.0
"""The console: a snapshot as something that Rich can show. Pure: the command owns the screen."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tracer.state.snapshot import Snapshot

MINIMUM_SIZE = (40, 12)
BLOCKS = " ▁▂▃▄▅▆▇█"
ASCII_BLOCKS = " .:|#"

#: Rate -> colour; the names say the same without colour.
SHOWN_RATES = {"opened": "cyan", "established": "green", "accepted": "blue", "closed": "magenta", "failed": "red"}

STATES = ("LISTEN", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT", "CLOSE_WAIT", "LAST_ACK", "CLOSING")


def render(snapshot: Snapshot, width: int, height: int, blocks: str = BLOCKS) -> RenderableType:
    """The whole screen, at most *width* by *height*; a terminal that is too small gets one line that says so."""
    if width < MINIMUM_SIZE[0] or height < MINIMUM_SIZE[1]:
        return Text(f"tcptrace needs {MINIMUM_SIZE[0]}x{MINIMUM_SIZE[1]}, this is {width}x{height}"[:width])
    states = states_table(snapshot)
    head = Group(header(snapshot), usage(snapshot), Text(""))
    states_width = 22
    if width < 64:
        return Group(head, states, rate_lines(snapshot))
    charts = rate_charts(snapshot, width - states_width - 3, height - 4, blocks)
    body = Table.grid(padding=(0, 3, 0, 0))
    body.add_column(width=states_width)
    body.add_column()
    body.add_row(states, charts)
    return Group(head, body)


def header(snapshot: Snapshot) -> Text:
    hooks = " ".join(f"{hook}={snapshot.hooks[hook]}" for hook in ("state", "accept") if hook in snapshot.hooks)
    text = Text(no_wrap=True, overflow="ellipsis")
    text.append("tcptrace", style="bold")
    text.append(f"  {snapshot.host}  {snapshot.kernel}  up {duration(snapshot.uptime_s)}  {hooks}")
    return text


def usage(snapshot: Snapshot) -> Text:
    text = Text(no_wrap=True, overflow="ellipsis")
    text.append(f"events {snapshot.totals['events']:,} ({snapshot.rates['events']:,}/s)  ")
    text.append(f"lost {snapshot.lost_total:,}", style="bold red" if snapshot.lost_total else "green")
    use = snapshot.use
    text.append(f"  ring {use.ring_fill_ratio:.0%}  cpu {use.cpu_ratio:.1%}  mem {use.rss_bytes / 1e6:.0f} MB")
    if snapshot.drift is not None:
        text.append(f"  drift {snapshot.drift.total:,}", style="yellow" if snapshot.drift.total else "green")
    if not snapshot.exact:
        text.append("  states approximate", style="yellow")
    return text


def states_table(snapshot: Snapshot) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(width=11, no_wrap=True)
    table.add_column(justify="right", width=9, no_wrap=True)
    table.add_row(Text("STATE", style="bold"), Text("SOCKETS", style="bold"))
    for state in STATES:
        count = snapshot.states.get(state)
        style = "" if count else "dim"
        table.add_row(Text(state, style=style), Text("-" if count is None else f"{count:,}", style=style))
    return table


def rate_lines(snapshot: Snapshot) -> Group:
    """The rates as numbers alone, for a narrow screen."""
    return Group(*(Text(f"{name:<12}{snapshot.rates[name]:>8,}/s") for name in SHOWN_RATES))


def rate_charts(snapshot: Snapshot, width: int, height: int, blocks: str) -> Group:
    """One bar chart for each rate, one bar a second, as many seconds as fit."""
    rows = max(min(height // len(SHOWN_RATES) - 1, 6), 1)
    parts: list[RenderableType] = []
    for name, colour in SHOWN_RATES.items():
        values = snapshot.history[name][-width:]
        peak = max(values, default=0)
        title = f"{name} {snapshot.rates[name]:,}/s, most {peak:,} in {len(values)} s"
        parts.append(Text(title[:width], style=colour, no_wrap=True))
        parts += [Text(line, style=colour, no_wrap=True) for line in bars(values, rows, blocks)]
    return Group(*parts)


def bars(values: Sequence[int], rows: int, blocks: str = BLOCKS) -> list[str]:
    """
    A bar chart as *rows* lines, top first, one column for each value, scaled to the largest.

    A value above 0 is never drawn as nothing.
    """
    steps = len(blocks) - 1
    top = max(values, default=0) or 1
    heights = [max(round(value / top * rows * steps), 1 if value else 0) for value in values]
    return ["".join(blocks[min(max(h - row * steps, 0), steps)] for h in heights) for row in reversed(range(rows))]


def duration(seconds: float) -> str:
    """1:02:03, or 2:03 within the first hour."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
