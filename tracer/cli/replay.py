# SPDX-License-Identifier: Apache-2.0
"""tcptrace replay: the console over a recording."""

from typing import Annotated

import typer

from tracer.cli.options import CaptureOptions, takes
from tracer.cli.points import parse_point, parse_speed
from tracer.cli.run import begin_capture, running
from tracer.cli.screen_options import Emoji, Json, Refresh, ScreenOptions, Theme


@takes(CaptureOptions)
def replay(
    options: CaptureOptions,
    recordings: Annotated[list[str], typer.Argument(metavar="RUN.arrows...", help="A recording, or the files of a rotation; - is stdin.")],
    speed: Annotated[str, typer.Option("--speed", metavar="N|max", help="Times as fast as it was.")] = "1",
    begin: Annotated[str | None, typer.Option("--from", metavar="T", help="Begin there: seconds, 1:30, or 2026-01-31T12:00:00Z.")] = None,
    end: Annotated[str | None, typer.Option("--to", metavar="T", help="End there, likewise.")] = None,
    json: Json = False,
    refresh: Refresh = 1.0,
    theme: Theme = "dark",
    emoji: Emoji = False,
) -> None:
    """
    The console over a recording, as it was live. Space pauses, left and right seek, + and - change the speed, q ends it.

    Example: tcptrace replay run.arrows --speed 10 --from 1:30
    """
    wanted = ScreenOptions(json, refresh, theme=theme, emoji=emoji)
    wanted.check(options)
    factor = parse_speed(speed)
    first, last = parse_point(begin), parse_point(end)
    pending = begin_capture(options, recordings)
    from tracer.cli.player import play

    with running(pending, options) as run:
        play(run, wanted, factor, first, last)
