# SPDX-License-Identifier: Apache-2.0
"""The first page: everything that matters at a glance, as much of it as the terminal has room for."""

from collections.abc import Sequence

from rich.text import Text

from tracer.views.console import panels
from tracer.views.console.panels import Look, Panel, beside_each_other
from tracer.views.console.picture import Picture

STATES = Panel(panels.states, 6, 11, 0)
RATES = Panel(panels.rates, 4, 16, 1, stretches=True)
LATENCY = Panel(panels.latency, 4, 4, 3)
FAILURES = Panel(panels.failures, 2, 8, 2)
PORTS = Panel(panels.ports, 1, 6, 4)
TOP = Panel(panels.top, 4, 8, 5)
TOP_BELOW = Panel(panels.top_below, 6, 33, 5)

GAP = 2
#: Columns of panels by the least width of the page, each column with its share of the width; the first that fits counts.
ARRANGEMENTS: Sequence[tuple[int, Sequence[tuple[float, Sequence[Panel]]]]] = (
    (150, ((0.30, (STATES, LATENCY, PORTS)), (0.35, (RATES,)), (0.35, (FAILURES, TOP_BELOW)))),
    (78, ((0.48, (STATES, LATENCY, PORTS)), (0.52, (RATES, FAILURES, TOP)))),
    (0, ((1.0, (STATES, RATES, LATENCY, FAILURES, PORTS)),)),
)


def overview(picture: Picture, width: int, rows: int, look: Look) -> list[Text]:
    """At most *rows* lines."""
    warnings = panels.alerts(picture, width, min(len(picture.snapshot.alerts), rows // 4), look)
    room = rows - len(warnings)
    columns = next(columns for least, columns in ARRANGEMENTS if width >= least)
    widths = [int((width - GAP * (len(columns) - 1)) * share) for share, _ in columns]
    drawn = [column(shown, picture, w, room, look) for w, (_, shown) in zip(widths, columns, strict=True)]
    return [*warnings, *join(drawn, widths)]


def column(shown: Sequence[Panel], picture: Picture, width: int, rows: int, look: Look) -> list[Text]:
    """Panels below each other, an empty line between two."""
    lines: list[Text] = []
    for panel, height in fit(shown, rows):
        if lines:
            lines.append(Text())
        lines += panel.draw(picture, width, height, look)[:height]
    return lines[:rows]


def fit(shown: Sequence[Panel], rows: int) -> list[tuple[Panel, int]]:
    """The panels that fit, each with its lines: least important ones go first; what is left over goes to the most important first."""
    chosen = list(shown)
    while len(chosen) > 1 and sum(p.least for p in chosen) + len(chosen) - 1 > rows:
        chosen.remove(max(chosen, key=lambda p: p.rank))
    heights = [min(panel.least, rows) for panel in chosen]
    spare = rows - sum(heights) - (len(chosen) - 1)
    for i in sorted(range(len(chosen)), key=lambda i: chosen[i].rank):
        grown = min(max(spare, 0), chosen[i].most - heights[i])
        heights[i] += grown
        spare -= grown
    stretching = [i for i, panel in enumerate(chosen) if panel.stretches]
    if stretching:
        heights[stretching[0]] += max(spare, 0)
    return list(zip(chosen, heights, strict=True))


def join(columns: Sequence[list[Text]], widths: Sequence[int]) -> list[Text]:
    """Columns of different widths as one."""
    joined = columns[-1]
    for lines, width in zip(reversed(columns[:-1]), reversed(widths[:-1]), strict=True):
        joined = beside_each_other([lines, joined], width, GAP)
    return joined
