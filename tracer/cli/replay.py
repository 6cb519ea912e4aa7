# SPDX-License-Identifier: Apache-2.0
"""tcptrace replay: the console over a recording."""

from typing import Annotated

import typer

from tracer.cli.options import CaptureOptions, takes
from tracer.cli.points import parse_point, parse_speed
from tracer.cli.run import begin_capture, running
from tracer.errors import UsageError


@takes(CaptureOptions)
def replay(
    options: CaptureOptions,
    recordings: Annotated[list[str], typer.Argument(metavar="RUN.arrows...", help="A recording, or the files of a rotation; - is stdin.")],
    speed: Annotated[str, typer.Option("--speed", metavar="N|max", help="Times as fast as it was.")] = "1",
    begin: Annotated[str | None, typer.Option("--from", metavar="T", help="Begin there: seconds, 1:30, or 2026-01-31T12:00:00Z.")] = None,
    end: Annotated[str | None, typer.Option("--to", metavar="T", help="End there, likewise.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One snapshot object per refresh on stdout, no console.")] = False,
    refresh: Annotated[float, typer.Option("--refresh", metavar="S", help="Seconds of the recording between two pictures.")] = 1.0,
) -> None:
    """
    The console over a recording, as it was live. Space pauses, the arrows seek, + and - change the speed, q ends it.

    Example: tcptrace replay run.arrows --speed 10 --from 1:30
    """
    if not 0.1 <= refresh <= 3600:
        raise UsageError(f"bad refresh {refresh:g}", "give seconds from 0.1 to 3600")
    if options.pid or options.comm or options.cgroup:
        raise UsageError("replay shows the whole host: -p, -c and --cgroup do not apply yet", "use them with: tcptrace events --input")
    factor = parse_speed(speed)
    first, last = parse_point(begin), parse_point(end)
    pending = begin_capture(options, recordings)
    from tracer.cli.player import play

    with running(pending, options) as run:
        play(run, json, refresh, factor, first, last)
