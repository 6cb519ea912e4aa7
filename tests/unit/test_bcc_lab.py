# SPDX-License-Identifier: Apache-2.0
"""The parts of scripts/bcctest that need no other BCC."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "scripts" / "bcc"


@pytest.fixture
def lab(monkeypatch):
    """Imports a module of the lab, which are scripts and no package."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts" / "vm"))
    monkeypatch.syspath_prepend(str(SCRIPTS))
    yield importlib.import_module
    for name in ("bcclab", "bcctable", "guest", "kernels", "lab", "packages", "roots", "suites", "table"):
        sys.modules.pop(name, None)


@pytest.fixture
def own_root(lab, tmp_path):
    """A folder as of another suite, but with this machine's Python, and without a library of its own."""
    (tmp_path / "usr" / "bin").mkdir(parents=True)
    (tmp_path / "usr" / "bin" / "python3").symlink_to(os.path.realpath(sys.executable))
    (tmp_path / "lib").symlink_to("/usr/lib")
    lab("roots").complete(tmp_path)
    return tmp_path


def test_the_list_has_the_oldest_and_the_newest_bcc(lab):
    suites = {suite.name: suite.bcc for suite in lab("suites").read_list()}

    assert {"bullseye": "0.18", "bookworm": "0.26", "sid": "0.37"}.items() <= suites.items()


def test_an_unknown_suite_is_one_error_that_names_the_known_ones(lab):
    suites = lab("suites")
    with pytest.raises(lab("kernels").LabError, match=r"no suite potato .*bullseye, bookworm"):
        suites.choose(["sid", "potato"])
    assert ["sid"] == [suite.name for suite in suites.choose(["sid"])]
    assert suites.read_list() == suites.choose([])


def test_the_python_of_a_folder_is_started_with_that_folders_loader(lab, own_root):
    report = "import os, sys; print(os.path.basename(os.path.realpath('/proc/self/exe')), sys.executable, sys.argv[1:])"
    done = subprocess.run([own_root / "python3", "-I", "-c", report, "a b"], capture_output=True, text=True, check=True)
    exe, executable, arguments = done.stdout.split(maxsplit=2)

    assert exe.startswith("ld-")
    assert (f"{own_root}/usr/bin/python3", "['a b']") == (executable, arguments.strip())


def test_a_folder_whose_python_takes_libraries_from_elsewhere_proves_nothing_and_is_refused(lab, own_root, tmp_path, monkeypatch):
    roots = lab("roots")
    look = tmp_path / "look.py"
    look.write_text(roots.LOOK.read_text().replace("import bcc", "import ctypes"))
    monkeypatch.setattr(roots, "LOOK", look)
    with pytest.raises(lab("kernels").LabError, match=r"takes libraries from elsewhere: .*libc"):
        roots.python_version(own_root)


def test_folders_that_the_packages_have_below_usr_are_linked_and_others_are_left(lab, tmp_path):
    for name in ("usr/bin", "usr/lib", "lib"):
        (tmp_path / name).mkdir(parents=True)
    lab("roots").complete(tmp_path)

    assert Path("usr/bin") == (tmp_path / "bin").readlink()
    assert not (tmp_path / "lib").is_symlink()
    assert not (tmp_path / "sbin").exists()


@pytest.mark.parametrize(("library", "version"), [("libLLVM-11.so.1", "11"), ("libLLVM.so.19.1", "19")])
def test_the_version_of_llvm_is_in_the_name_of_its_library(lab, tmp_path, library, version):
    folder = tmp_path / "usr" / "lib" / "x86_64-linux-gnu"
    folder.mkdir(parents=True)
    with pytest.raises(lab("kernels").LabError, match="no LLVM"):
        lab("roots").llvm_version(tmp_path)
    (folder / library).touch()

    assert version == lab("roots").llvm_version(tmp_path)


def test_the_table_has_a_row_for_each_suite_that_was_run(lab, tmp_path):
    results = tmp_path / "results" / "sid"
    results.mkdir(parents=True)
    (results / "results.xml").write_text('<t><testcase name="a"/><testcase name="b"><failure/></testcase></t>')
    (results / "versions.json").write_text(json.dumps({"python": "3.14.1", "llvm": "21"}))
    (results / "doctor.json").write_text(json.dumps({"kernel": "6.18", "bcc": "0.37.0"}))
    lines = lab("bcctable").as_markdown(tmp_path, lab("suites").read_list()).splitlines()

    assert "| sid | 0.37.0 | 3.14.1 | 21 | 6.18 | 1 passed, 1 failed |" == lines[2]
    assert len(lines) == 3


def test_the_tests_are_run_by_the_clones_python_and_load_with_that_of_the_folder(lab, tmp_path, monkeypatch):
    bcclab, runs = lab("bcclab"), []

    def run(command, **options):
        runs.append((command, options))
        return subprocess.CompletedProcess(command, 5)

    monkeypatch.setattr(bcclab.subprocess, "run", run)

    assert 5 == bcclab.run_python(tmp_path, "pytest", "tests/kernel")
    ((command, options),) = runs
    assert [str(ROOT / ".venv/bin/python"), "-P", "-m", "pytest", "tests/kernel"] == command
    assert {"TCPTRACE_BCC_PYTHON": f"{tmp_path}/python3", "TCPTRACE_REQUIRE_KERNEL": "1"}.items() <= options["env"].items()


def test_the_list_is_printed_without_root_and_without_a_setup():
    done = subprocess.run([str(ROOT / "scripts" / "bcctest"), "--list"], capture_output=True, text=True, check=False)

    assert (0, "") == (done.returncode, done.stderr)
    assert {"bullseye", "trixie", "sid"} < set(done.stdout.split())
