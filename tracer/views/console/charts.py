# SPDX-License-Identifier: Apache-2.0
"""Numbers drawn with characters."""

from collections.abc import Sequence

from tracer.views.console.theme import UNICODE


def bars(values: Sequence[int], rows: int, blocks: str = UNICODE.blocks) -> list[str]:
    """
    A bar chart as *rows* lines (0: none), top first, one column for each value, scaled to the largest.

    A value above 0 is never drawn as nothing.
    """
    steps = len(blocks) - 1
    top = max(values, default=0)
    if not top:
        return [blocks[0] * len(values)] * rows
    heights = [max(round(value / top * rows * steps), 1 if value else 0) for value in values]
    return ["".join(blocks[min(max(h - row * steps, 0), steps)] for h in heights) for row in reversed(range(rows))]


def sparkline(values: Sequence[int], width: int, blocks: str = UNICODE.blocks) -> str:
    """The course of a number in one line of at most *width* columns, the latest at the right; of values that share one, the largest."""
    if not values or width < 1:
        return ""
    share = -(-len(values) // width)
    first = len(values) % share
    parts = [values[:first]] if first else []
    parts += [values[i : i + share] for i in range(first, len(values), share)]
    return bars([max(part) for part in parts], 1, blocks)[0]


def percentile(values: Sequence[int], percent: int) -> int:
    """The smallest value that so many percent of all are not above; 0 for none."""
    ordered = sorted(values)
    return ordered[max(-(-len(ordered) * percent // 100) - 1, 0)] if ordered else 0


def clock_text(seconds: float) -> str:
    """1:02:03, or 2:03 within the first hour."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
