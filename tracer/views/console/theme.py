# SPDX-License-Identifier: Apache-2.0
"""Colours by what they mean, and the signs that a terminal can show."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Theme:
    """
    Styles by meaning, in Rich's words. What is coloured is also said in words or numbers.

    Attributes:
        title: headings; *key*: the letter of a key; *quiet*: what is less important.
        good, warn, bad: how things are.
        chosen: the page that is shown; *field*: where one types.
        rates: by rate.
    """

    title: str = "bold"
    key: str = "bold"
    quiet: str = "dim"
    good: str = ""
    warn: str = "bold"
    bad: str = "bold reverse"
    chosen: str = "reverse"
    field: str = "underline"
    rates: Mapping[str, str] | None = None

    def rate(self, name: str) -> str:
        """The style of a rate's bars."""
        return (self.rates or {}).get(name, "")


THEMES: Mapping[str, Theme] = {
    "dark": Theme(
        title="bold bright_white",
        key="bold cyan",
        quiet="bright_black",
        good="green",
        warn="yellow",
        bad="bold red",
        rates={"opened": "cyan", "accepted": "blue", "closed": "magenta", "failed": "red"},
    ),
    "light": Theme(
        title="bold black",
        key="bold blue",
        quiet="bright_black",
        good="green",
        warn="bold dark_orange3",
        bad="bold red",
        rates={"opened": "blue", "accepted": "dark_cyan", "closed": "magenta", "failed": "red"},
    ),
    # Blue and orange stay apart for every kind of colour vision. Source: Okabe and Ito, Color Universal Design.
    "safe": Theme(
        title="bold",
        key="bold #56b4e9",
        quiet="dim",
        good="#56b4e9",
        warn="#e69f00",
        bad="bold #d55e00",
        rates={"opened": "#56b4e9", "accepted": "#0072b2", "closed": "#cc79a7", "failed": "#d55e00"},
    ),
    "mono": Theme(),
}


@dataclass(frozen=True, slots=True)
class Signs:
    """
    Attributes:
        blocks: bars of rising height, from none to full.
        cut: stands for what was left out.
        rises, falls: behind a change.
        alert, fine: before an alert, and where all is well; empty unless asked for.
    """

    blocks: str
    cut: str
    rises: str
    falls: str
    alert: str = ""
    fine: str = ""


UNICODE = Signs(" ▁▂▃▄▅▆▇█", "…", "▲", "▼")
ASCII = Signs(" .:|#", "~", "+", "-")
EMOJI = Signs(UNICODE.blocks, UNICODE.cut, UNICODE.rises, UNICODE.falls, "🔥 ", "✅ ")
