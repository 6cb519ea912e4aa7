# SPDX-License-Identifier: Apache-2.0
"""tcptrace live: the console."""

from tracer.cli.options import CaptureOptions, Inputs, takes
from tracer.cli.run import begin_capture, running
from tracer.cli.screen_options import Emoji, Json, Once, Refresh, ScreenOptions, Theme
from tracer.errors import UsageError


@takes(CaptureOptions)
def live(
    options: CaptureOptions,
    json: Json = False,
    refresh: Refresh = 1.0,
    once: Once = False,
    theme: Theme = "dark",
    emoji: Emoji = False,
    input: Inputs = None,
) -> None:
    """
    The console: states, rates, latency, ports, failures and connections, live. Press ? for its keys, q to leave.

    Example: sudo tcptrace live --lport 443
    """
    wanted = ScreenOptions(json, refresh, once, theme, emoji)
    wanted.check(options)
    if once and input:
        raise UsageError("--once is of a live capture", "use: tcptrace replay RUN.arrows --json --speed max | tail -n 1")
    pending = begin_capture(options, input or ())
    # While the programs are compiled, and not by the commands that show no console.
    from tracer.cli.pictures import Pictures
    from tracer.cli.reconciling import begin_reconciling
    from tracer.cli.screens import open_screen, refresh_until_stopped

    with running(pending, options) as run:
        if input:
            from tracer.cli.player import play

            play(run, wanted, speed=float("inf"))
            return
        with begin_reconciling(run) as reconciler, open_screen(run, wanted) as screen:
            refresh_until_stopped(run, reconciler, Pictures(run), screen, once)
