# SPDX-License-Identifier: Apache-2.0
"""Points of a recording and speeds of a replay, as people write them."""

import re
from dataclasses import dataclass
from datetime import datetime

from tracer.errors import UsageError
from tracer.events.batch import EventBatch

NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Point:
    """A place in a recording: nanoseconds of wall time, or since its beginning."""

    ns: int
    is_wall: bool = False

    def is_reached(self, batch: EventBatch, began_ns: int) -> bool:
        """Whether the batch was taken then or later; *began_ns* is when the recording began."""
        now_ns = batch.now_ns + batch.wall_offset_ns if self.is_wall else batch.now_ns - began_ns
        return now_ns >= self.ns


def parse_point(text: str | None) -> Point | None:
    """
    A place from "90", "1:30", "1:00:00" since the beginning, or a time such as "2026-01-31T12:00:00Z"; None for None.

    A time without a zone is local time.

    Raises:
        UsageError: neither.
    """
    if text is None:
        return None
    found = re.fullmatch(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d+)?)", text.strip(), re.ASCII)
    if found:
        hours, minutes, seconds = (float(part or 0) for part in found.groups())
        return Point(round((hours * 3600 + minutes * 60 + seconds) * NS))
    try:
        return Point(round(datetime.fromisoformat(text.strip()).timestamp() * 1e6) * 1000, is_wall=True)
    except ValueError as error:
        raise UsageError(f"bad time {text!r}", "give seconds or h:mm:ss since the beginning, or a time: 2026-01-31T12:00:00Z") from error


def parse_speed(text: str) -> float:
    """
    Times as fast as it was, infinite for "max".

    Raises:
        UsageError: no number above 0.
    """
    if text == "max":
        return float("inf")
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0 < speed < float("inf"):
        raise UsageError(f"bad speed {text!r}", "give a number above 0, or max")
    return speed
