# SPDX-License-Identifier: Apache-2.0
"""The list of kernels and of hosts, scripts/kernels.toml."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).resolve().parents[2]
LIST = ROOT / "scripts" / "kernels.toml"

T = TypeVar("T")


class LabError(Exception):
    """What stands in the way of a guest, in one line."""


@dataclass(frozen=True)
class Kernel:
    """
    Attributes:
        name: as people say it: "6.1".
        suite: of Debian, that has it.
        hooks: kinds that must work, by hook: {"state": [...], "accept": [...]}.
    """

    name: str
    suite: str
    hooks: dict[str, list[str]]


@dataclass(frozen=True)
class Host:
    """
    How a guest is booted, whatever its kernel.

    Attributes:
        name: as people say it, and as the tests that only run there name it; "" for one that refuses nothing.
        append: further arguments for the kernel.
    """

    name: str = ""
    append: str = ""


def choose_host(name: str) -> Host:
    """
    The host of this name.

    Raises:
        LabError: there is no such host in the list.
    """
    hosts = {row["name"]: Host(**row) for row in tomllib.loads(LIST.read_text())["host"]}
    hosts[""] = Host()
    return pick(hosts, [name], "host", LIST)[0]


def results_of(lab: Path, kernel: Kernel, host: str = "", bcc: str = "") -> Path:
    """The folder for what a guest leaves; *bcc*: the suite that BCC comes from, where it is not this machine's own."""
    return lab / "results" / "-".join(filter(None, (kernel.name, host, bcc)))


def read_list() -> list[Kernel]:
    rows = tomllib.loads(LIST.read_text())["kernel"]
    return [Kernel(row["name"], row["suite"], {"state": row["state"], "accept": row["accept"]}) for row in rows]


def choose(names: list[str]) -> list[Kernel]:
    """
    The kernels of these names; all where none is named.

    Raises:
        LabError: there is no such kernel in the list.
    """
    return pick({kernel.name: kernel for kernel in read_list()}, names, "kernel", LIST)


def pick(rows: dict[str, T], names: list[str], what: str, listed: Path) -> list[T]:
    """
    The rows of a list of these names; all where none is named.

    Raises:
        LabError: there is no such row.
    """
    unknown = [name for name in names if name not in rows]
    if unknown:
        raise LabError(f"no {what} {unknown[0]} in {listed}: it has {', '.join(filter(None, rows))}")
    return [rows[name] for name in names or rows]
