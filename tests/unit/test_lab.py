# SPDX-License-Identifier: Apache-2.0
"""The parts of scripts/vmtest that need no guest."""

import importlib
import json
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.kernel.conftest import wait_until

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "scripts" / "vm"


@pytest.fixture
def lab(monkeypatch):
    """Imports a module of the lab, which are scripts and no package."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    names = ("guest", "kernels", "lab", "memory", "packages", "roots", "suites", "table")
    yield importlib.import_module
    for name in names:
        sys.modules.pop(name, None)


def test_the_list_has_the_kernels_with_the_hooks_that_must_work(lab):
    kernels = {kernel.name: kernel for kernel in lab("kernels").read_list()}

    assert {"6.1", "6.12", "7.2"} <= kernels.keys()
    assert kernels["6.1"].suite == "bookworm"
    assert all({"state", "accept"} == kernel.hooks.keys() for kernel in kernels.values())


def test_an_unknown_kernel_is_one_error_that_names_the_known_ones(lab):
    kernels = lab("kernels")
    with pytest.raises(kernels.LabError, match=r"no kernel 9\.9 .*6\.1, 6\.12"):
        kernels.choose(["6.1", "9.9"])
    assert [kernel.name for kernel in kernels.read_list()] == [kernel.name for kernel in kernels.choose([])]


def test_a_host_adds_its_arguments_to_the_kernels_and_has_results_of_its_own(lab):
    kernels, guest = lab("kernels"), lab("guest")
    (kernel,) = kernels.choose(["6.1"])
    locked = guest.Guest(kernel, Path("/boot/vmlinuz"), kernels.choose_host("locked-down"), ["tests/kernel"], 1.0)
    words = guest.command(Path("/lab"), locked, Path("/share"))

    assert "lockdown=confidentiality" in words[words.index("--append") + 1].split()
    assert "6.1-locked-down" == locked.results(Path("/lab")).name
    assert "6.1" == guest.Guest(kernel, Path("/boot/vmlinuz"), kernels.choose_host(""), [], 1.0).results(Path("/lab")).name
    with pytest.raises(kernels.LabError, match=r"no host open .*locked-down, bare"):
        kernels.choose_host("open")


def test_a_kernel_is_found_in_one_package_or_in_two(lab):
    parts = lab("packages").PARTS
    listing = "linux-image-amd64\n  Depends: x\nlinux-image-6.1.0-50-amd64\nlinux-base\nlinux-headers-6.1.0\n"
    newer = "linux-image-7.2.13+deb14-amd64\nlinux-binary-7.2.13+deb14-amd64\nlinux-modules-7.2.13+deb14-amd64\n"

    assert ["linux-image-6.1.0-50-amd64"] == parts.findall(listing)
    assert 3 == len(parts.findall(newer))


def test_the_archive_has_the_programs_and_the_tests_and_not_what_they_do_not_need(lab, tmp_path):
    lab("guest").archive_clone(tmp_path / "clone.tar")
    with tarfile.open(tmp_path / "clone.tar") as archive:
        names = archive.getnames()

    assert {"./bpf/tcptrace.bpf.c", "./tests/kernel/test_able.py", "./tracer/__main__.py", "./pyproject.toml"} <= set(names)
    assert not any("/.git/" in name or "/mypy/" in name for name in names)


def test_a_guest_gets_the_programs_it_runs_with_all_that_they_load(lab, tmp_path, monkeypatch):
    memory = lab("memory")
    folder = tmp_path / "modules"
    for name in ("json/a.py", "test/b.py"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).touch()
    monkeypatch.setattr(memory, "PROGRAMS", ("sh", "no-such-program"))
    monkeypatch.setattr(memory, "FOLDERS", (str(folder), "/no/such/folder"))
    memory.archive_programs(tmp_path / "memory.tar", tmp_path / "memory.txt")
    with tarfile.open(tmp_path / "memory.tar") as archive:
        names = {f"/{name}" for name in archive.getnames()}

    listed = set((tmp_path / "memory.txt").read_text().splitlines())
    assert {str(Path(shutil.which("sh")).resolve()), str(folder)} <= listed <= names
    assert any("/libc.so" in path for path in listed)
    assert f"{folder}/json/a.py" in names
    assert not any("/test/b.py" in name for name in names)


RESULTS = """<testsuites><testsuite>
<testcase name="a[fexit]"/><testcase name="a[kprobe]"><failure/></testcase><testcase name="b[kprobe]"/>
<testcase name="c"><skipped/></testcase></testsuite></testsuites>"""


def test_the_table_tells_what_passed_failed_and_was_not_run(lab, tmp_path):
    results = tmp_path / "results" / "6.1"
    results.mkdir(parents=True)
    (results / "results.xml").write_text(RESULTS)
    hooks = [{"hook": "state", "kind": "raw_tracepoint"}, {"hook": "accept", "kind": None}]
    (results / "doctor.json").write_text(json.dumps({"kernel": "6.1.0-50", "bcc": "0.26.0", "hooks": hooks}))
    kernels = lab("kernels")
    lines = lab("table").as_markdown(tmp_path, kernels.choose(["6.1", "6.12"])).splitlines()

    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert [
        "6.1.0-50",
        "0.26.0",
        "raw_tracepoint",
        "off",
        "1 passed",
        "1 passed, 1 failed",
        "not run",
        "2 passed, 1 failed, 1 skipped",
    ] == cells
    assert len(lines) == 3


def has_gone(pid):
    """It has ended, if nobody has asked for its status yet."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout.strip()
    return state == "" or state.startswith("Z")


def test_a_guest_that_hangs_is_ended_with_all_it_has_started(lab, tmp_path):
    script = f"sleep 600 & echo $! >{tmp_path}/child; wait"
    with (tmp_path / "console").open("wb") as console:
        lab("guest").boot(["bash", "-c", script], tmp_path, console.fileno(), 2, tmp_path / "output")

    wait_until(lambda: has_gone(int((tmp_path / "child").read_text())), "the child to end")


FOLLOW = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import guest
script = "echo one >output; until [ -e go ]; do sleep 0.01; done; echo two >>output"
guest.boot(["bash", "-c", script], Path.cwd(), 2, 60, Path("output"))
"""


def test_what_a_guest_writes_is_printed_while_it_runs(tmp_path):
    with subprocess.Popen([sys.executable, "-c", FOLLOW, str(SCRIPTS)], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        first = process.stdout.readline()
        (tmp_path / "go").touch()
        rest = process.stdout.read()

    assert ("one\n", "two\n") == (first, rest)


BOOT = """
import signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import guest, lab
signal.signal(signal.SIGTERM, lab.end_in_good_order)
guest.boot(["bash", "-c", "sleep 600 & echo $! >child; wait"], Path.cwd(), 1, 600, Path("output"))
"""


def test_a_lab_that_is_ended_leaves_no_guest_behind(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", BOOT, str(SCRIPTS)], cwd=tmp_path)
    wait_until(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text().endswith("\n"), "the guest to start")
    process.terminate()

    assert process.wait(20) == 128 + signal.SIGTERM
    wait_until(lambda: has_gone(int((tmp_path / "child").read_text())), "the child to end")


def test_slowness_is_told_from_failure(lab):
    outcome, exit_code = lab("guest").Outcome, lab("lab").exit_code
    codes = {(0, 0): 0, (0, None): 124, (1, None): 1, (1, 0): 1}

    assert codes == {ends: exit_code([outcome(None, end, Path()) for end in ends]) for ends in codes}


@pytest.mark.parametrize(
    ("code", "case", "ended"),
    [
        ("0", "<testcase/>", 0),
        ("1", "<testcase><failure/></testcase>", 1),
        ("124", "<testcase/>", None),
        ("124", "<testcase/><testcase><error/></testcase>", 124),
        ("", "<testcase/>", None),
    ],
)
def test_tests_that_are_ended_by_the_time_limit_are_slow_unless_one_failed(lab, tmp_path, code, case, ended):
    (tmp_path / "exit-code").write_text(code)
    (tmp_path / "results.xml").write_text(f"<testsuites>{case}</testsuites>")

    assert ended == lab("guest").exit_code_in(tmp_path)


def test_a_guest_with_another_bcc_has_results_of_its_own(lab, tmp_path):
    kernels = lab("kernels")
    (kernel,) = kernels.choose(["6.1"])

    assert tmp_path / "results" / "6.1" == kernels.results_of(tmp_path, kernel)
    assert tmp_path / "results" / "6.1-sid" == kernels.results_of(tmp_path, kernel, bcc="sid")


def test_a_guest_with_a_bcc_that_is_not_in_the_list_is_a_usage_error():
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "lab.py"), "/nonexistent", "6.1", "--bcc", "potato"], capture_output=True, text=True, check=False
    )

    assert done.returncode == 2
    assert "no suite potato in" in done.stderr


def test_the_list_is_printed_without_root_and_without_a_setup():
    done = subprocess.run([str(ROOT / "scripts" / "vmtest"), "--list"], capture_output=True, text=True, check=False)

    assert (0, "") == (done.returncode, done.stderr)
    assert "6.12" in done.stdout.splitlines()
