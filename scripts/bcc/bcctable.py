# SPDX-License-Identifier: Apache-2.0
"""What the runs left, as a table for the README."""

import json
from pathlib import Path
from xml.etree import ElementTree

from suites import Suite
from table import in_rows, summary

HEADINGS = ("Debian", "BCC", "Python of the child", "LLVM", "kernel", "tests")


def as_markdown(lab: Path, suites: list[Suite]) -> str:
    """One row for each suite with results, of the last run of each."""
    folders = [lab / "results" / suite.name for suite in suites]
    return in_rows(HEADINGS, [row(folder) for folder in folders if (folder / "results.xml").exists()])


def row(results: Path) -> list[str]:
    doctor = json.loads((results / "doctor.json").read_text())
    cases = list(ElementTree.parse(results / "results.xml").iter("testcase"))
    versions = json.loads((results / "versions.json").read_text())
    return [results.name, doctor["bcc"], versions["python"], versions["llvm"], doctor["kernel"], summary(cases)]
