# SPDX-License-Identifier: Apache-2.0
"""The command line of scripts/bcctest, which calls it with the lab's folder as first argument."""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "vm")]

from bcctable import as_markdown
from kernels import LabError
from lab import CANNOT, USAGE, complain, split_arguments
from roots import fetch_root, llvm_version, python_of, python_version
from suites import ROOT, Suite, choose, read_list

#: As in tracer/kernel/facts.py, which this, run without the clone's packages, cannot import.
PYTHON_VARIABLE = "TCPTRACE_BCC_PYTHON"


def parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    own, pytest_arguments = split_arguments(arguments)
    parser = argparse.ArgumentParser(
        prog="scripts/bcctest",
        usage="scripts/bcctest [OPTION...] [SUITE...] [-- PYTEST-ARGUMENT...]",
        description="Runs the kernel tests on this kernel with the BCC and the Python of other suites of Debian.",
        epilog="Example: scripts/bcctest bullseye sid -- tests/kernel/test_events.py",
    )
    parser.add_argument("suites", nargs="*", metavar="SUITE", help="out of scripts/bcc.toml; all of them if none is given")
    parser.add_argument("--list", action="store_true", help="print the suites and leave")
    parser.add_argument("--refresh", action="store_true", help="get the packages again, as new as they now are")
    parser.add_argument("--markdown", action="store_true", help="print the results of the last runs as a table, and run nothing")
    return parser.parse_args(own), pytest_arguments


def say(text: str) -> None:
    print(f"bcctest: {text}", file=sys.stderr, flush=True)


def try_suite(suite: Suite, lab: Path, refresh: bool, pytest_arguments: list[str]) -> int:
    """
    Runs the tests with a suite's BCC; pytest's exit code.

    Raises:
        LabError: the packages cannot be had, or do not work.
    """
    root = fetch_root(suite.name, lab, refresh)
    results = lab / "results" / suite.name
    shutil.rmtree(results, ignore_errors=True)
    results.mkdir(parents=True)
    versions = {"python": python_version(root), "llvm": llvm_version(root)}
    (results / "versions.json").write_text(json.dumps(versions))
    say(f"{suite.name}: testing; the results will be in {results}")
    code = run_python(root, "pytest", "-p", "no:cacheprovider", f"--junitxml={results / 'results.xml'}", *pytest_arguments)
    with (results / "doctor.json").open("wb") as doctor:
        run_python(root, "tracer", "doctor", "--json", stdout=doctor)
    say(f"{suite.name}: exit code {code}")
    return code


def run_python(root: Path, module: str, *arguments: str, stdout: BinaryIO | None = None) -> int:
    """Runs a module with the clone's Python; whatever it loads is loaded by the Python in *root*."""
    environment = {**os.environ, PYTHON_VARIABLE: str(python_of(root)), "PYTHONPATH": str(ROOT), "TCPTRACE_REQUIRE_KERNEL": "1"}
    command = [str(ROOT / ".venv" / "bin" / "python"), "-P", "-m", module, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, stdout=stdout, check=False).returncode


def main(arguments: list[str]) -> int:
    lab = Path(arguments[0])
    options, pytest_arguments = parse(arguments[1:])
    try:
        chosen = choose(options.suites)
    except LabError as error:
        return complain(error, USAGE)
    if options.list:
        print("\n".join(suite.name for suite in read_list()))
        return 0
    if options.markdown:
        print(as_markdown(lab, chosen))
        return 0
    try:
        codes = [try_suite(suite, lab, options.refresh, pytest_arguments) for suite in chosen]
    except LabError as error:
        return complain(error, CANNOT)
    return int(any(codes))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
