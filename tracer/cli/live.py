# SPDX-License-Identifier: Apache-2.0
"""tcptrace live: the console."""

from typing import Annotated

import typer

from tracer.cli.options import CaptureOptions, Inputs, takes
from tracer.cli.run import begin_capture, running
from tracer.errors import UsageError


@takes(CaptureOptions)
def live(
    options: CaptureOptions,
    json: Annotated[bool, typer.Option("--json", help="One snapshot object per refresh on stdout, no console.")] = False,
    refresh: Annotated[float, typer.Option("--refresh", metavar="S", help="Seconds between two pictures.")] = 1.0,
    input: Inputs = None,
) -> None:
    """
    The console: states, rates, losses and drift, live. Ctrl-C ends it.

    Example: sudo tcptrace live --lport 443
    """
    if not 0.1 <= refresh <= 3600:
        raise UsageError(f"bad refresh {refresh:g}", "give seconds from 0.1 to 3600")
    if options.pid or options.comm or options.cgroup:
        raise UsageError("live shows the whole host: -p, -c and --cgroup do not apply yet", "use them with: tcptrace events")
    pending = begin_capture(options, input or ())
    # While the programs are compiled, and not by the commands that show no console.
    from tracer.cli.pictures import Pictures, refresh_until_stopped, screen
    from tracer.cli.reconciling import begin_reconciling

    with running(pending, options) as run:
        if input:
            from tracer.cli.player import play

            play(run, json, refresh, speed=float("inf"))
            return
        with begin_reconciling(run) as reconciler, screen(json) as show:
            refresh_until_stopped(run, reconciler, Pictures(run), show, refresh)
