# SPDX-License-Identifier: Apache-2.0
"""The list of suites, scripts/bcc.toml."""

import tomllib
from dataclasses import dataclass

from kernels import ROOT, pick

LIST = ROOT / "scripts" / "bcc.toml"


@dataclass(frozen=True)
class Suite:
    """
    Attributes:
        name: Debian's: "trixie".
        bcc: the version of BCC that it was put into the list for.
    """

    name: str
    bcc: str


def read_list() -> list[Suite]:
    return [Suite(row["suite"], row["bcc"]) for row in tomllib.loads(LIST.read_text())["suite"]]


def choose(names: list[str]) -> list[Suite]:
    """
    The suites of these names; all where none is named.

    Raises:
        LabError: there is no such suite in the list.
    """
    return pick({suite.name: suite for suite in read_list()}, names, "suite", LIST)
