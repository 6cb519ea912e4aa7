# SPDX-License-Identifier: Apache-2.0
"""tcptrace live: the console."""

import os
import sys
import time
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tracer.cli.options import CaptureOptions, takes
from tracer.cli.run import Run, begin_capture, running
from tracer.errors import UsageError

if TYPE_CHECKING:
    from tracer.cli.pictures import Pictures

ThemeName = Literal["dark", "light", "safe", "mono"]
POLL_S = 0.1


@takes(CaptureOptions)
def live(
    options: CaptureOptions,
    json: Annotated[bool, typer.Option("--json", help="One snapshot object per refresh on stdout, no console.")] = False,
    refresh: Annotated[float, typer.Option("--refresh", metavar="S", help="Seconds between two pictures.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="One picture, after one refresh, and leave.")] = False,
    theme: Annotated[ThemeName, typer.Option("--theme", help="Colours; safe: for every kind of colour vision.")] = "dark",
    emoji: Annotated[bool, typer.Option("--emoji", help="Emoji before alerts.")] = False,
) -> None:
    """
    The console: states, rates, latency, ports, failures and connections, live. Press ? for its keys, q to leave.

    Example: sudo tcptrace live --lport 443
    """
    if not 0.1 <= refresh <= 3600:
        raise UsageError(f"bad refresh {refresh:g}", "give seconds from 0.1 to 3600")
    if options.pid or options.comm or options.cgroup:
        raise UsageError("live shows the whole host: -p, -c and --cgroup do not apply yet", "use them with: tcptrace events")
    pending = begin_capture(options)
    # While the programs are compiled, and not by the commands that show no console.
    from tracer.cli.pictures import Pictures

    if not json:
        import tracer.cli.console  # noqa: F401
    with running(pending, options) as run, Pictures(run) as pictures:
        if json:
            write_snapshots(run, pictures, refresh, once)
        else:
            show(run, pictures, refresh, once, theme, emoji)


def write_snapshots(run: Run, pictures: "Pictures", refresh_s: float, once: bool) -> None:
    """One JSON object a refresh, and a last one."""
    from tracer.state.snapshot import to_json

    due = time.monotonic() + refresh_s
    for batch in run.batches(min(POLL_S, refresh_s)):
        run.room(len(batch))
        pictures.fold(batch)
        if time.monotonic() >= due:
            if once:
                break
            print(to_json(pictures.take()), flush=True)
            due = max(due + refresh_s, time.monotonic())
    print(to_json(pictures.take()), flush=True)


def show(run: Run, pictures: "Pictures", refresh_s: float, once: bool, theme: str, emoji: bool) -> None:
    """The console on a terminal; elsewhere, and with *once*, plain blocks of text."""
    from rich.console import Console

    from tracer.cli.console import ConsoleView, run_console, run_plain
    from tracer.cli.terminal import console_terminal
    from tracer.views.console.controls import Controls
    from tracer.views.console.panels import Look
    from tracer.views.console.theme import ASCII, EMOJI, THEMES, UNICODE

    console = Console(highlight=False, soft_wrap=True)
    signs = ASCII if "utf" not in console.encoding.lower() else EMOJI if emoji else UNICODE
    look = Look(THEMES[theme], signs)
    controls = Controls(refresh_s=refresh_s)
    if once or not is_capable():
        run_plain(run, pictures, controls, console, look, once)
        return
    with console_terminal(sys.stdin.fileno()) as terminal:
        run_console(run, ConsoleView(pictures, controls), terminal, sys.stdout.fileno(), console, look)


def is_capable() -> bool:
    """Whether there is a terminal that can place text."""
    return sys.stdout.isatty() and sys.stdin.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown", "")
