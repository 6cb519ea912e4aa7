# SPDX-License-Identifier: Apache-2.0
"""What the guests left, as a table for the README."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from xml.etree import ElementTree

from guest import cases_in
from kernels import Kernel, results_of

FORCED = ("fexit", "kprobe", "syscall")
HEADINGS = ("kernel", "BCC", "state hook", "accept hook", *(f"`--accept-hook {kind}`" for kind in FORCED), "tests")


def as_markdown(lab: Path, kernels: list[Kernel], bcc: str | None = None) -> str:
    """One row for each kernel with results, of the last run of each with this machine's BCC, or with that of a suite."""
    folders = [results_of(lab, kernel, bcc=bcc or "") for kernel in kernels]
    return in_rows(HEADINGS, [row(folder) for folder in folders if (folder / "results.xml").exists()])


def in_rows(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (headings, ["---"] * len(headings), *rows))


def row(results: Path) -> list[str]:
    doctor = json.loads((results / "doctor.json").read_text())
    hooks = {hook["hook"]: hook["kind"] or "off" for hook in doctor["hooks"]}
    cases = cases_in(results / "results.xml")
    return [doctor["kernel"], doctor["bcc"], hooks["state"], hooks["accept"], *(forced(cases, kind) for kind in FORCED), summary(cases)]


def verdict(case: ElementTree.Element) -> str:
    return next((word for word in ("failure", "error", "skipped") if case.find(word) is not None), "passed")


def forced(cases: list[ElementTree.Element], kind: str) -> str:
    """How the tests of one hook went, which have its name in brackets."""
    counts = Counter(verdict(case) for case in cases if f"[{kind}" in str(case.get("name")))
    return in_words(counts) if counts else "not run"


def summary(cases: list[ElementTree.Element]) -> str:
    return in_words(Counter(verdict(case) for case in cases))


def in_words(counts: Counter[str]) -> str:
    names = {"passed": "passed", "failure": "failed", "error": "errors", "skipped": "skipped"}
    return ", ".join(f"{counts[word]} {name}" for word, name in names.items() if counts[word])
