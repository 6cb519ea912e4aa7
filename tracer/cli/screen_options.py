# SPDX-License-Identifier: Apache-2.0
"""Options of how pictures are shown; apart from the screens, which take long to import."""

from dataclasses import dataclass
from typing import Annotated, Literal

import typer

from tracer.cli.options import CaptureOptions
from tracer.errors import UsageError

ThemeName = Literal["dark", "light", "safe", "mono"]

Json = Annotated[bool, typer.Option("--json", help="One snapshot object per refresh on stdout, no console.")]
Refresh = Annotated[float, typer.Option("--refresh", metavar="S", help="Seconds between two pictures.")]
Once = Annotated[bool, typer.Option("--once", help="One picture, after one refresh, and leave.")]
Theme = Annotated[ThemeName, typer.Option("--theme", help="Colours; safe: for every kind of colour vision.")]
Emoji = Annotated[bool, typer.Option("--emoji", help="Emoji before alerts.")]


@dataclass(frozen=True, slots=True)
class ScreenOptions:
    """As given on the command line."""

    json: bool = False
    refresh_s: float = 1.0
    once: bool = False
    theme: str = "dark"
    emoji: bool = False

    def check(self, options: CaptureOptions) -> None:
        """
        Raises:
            UsageError: an option makes no sense, or not with those of the capture.
        """
        if not 0.1 <= self.refresh_s <= 3600:
            raise UsageError(f"bad refresh {self.refresh_s:g}", "give seconds from 0.1 to 3600")
        if options.pid or options.comm or options.cgroup:
            raise UsageError("pictures are of the whole host: -p, -c and --cgroup do not apply", "use them with: tcptrace events")
