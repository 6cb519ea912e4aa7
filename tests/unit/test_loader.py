# SPDX-License-Identifier: Apache-2.0
"""The loader with children that fail in every way a child can."""

import os
import sys
from pathlib import Path

import pytest

from tracer.errors import HostError, ProgramError
from tracer.kernel.loader import Loader
from tracer.kernel.plan import LoadRequest

REQUEST = LoadRequest(source="", include="", headers="", defines={}, fields={}, hooks=())
REPLY = "import json, os, socket, sys\nreply = socket.socket(fileno=int(sys.argv[1]))\nsys.stdin.read()\n"


@pytest.fixture
def load(tmp_path):
    """The result of a loader whose child runs the given code."""

    def run(code, timeout_s=20.0, python=sys.executable):
        (tmp_path / "__main__.py").write_text(REPLY + code)
        with Loader(python, REQUEST, tmp_path) as loader:
            return loader.result(timeout_s)

    return run


def fails(stage, message="it says why", number="None"):
    return f"reply.send(json.dumps({{'error': {{'stage': {stage!r}, 'message': {message!r}, 'errno': {number}}}}}).encode())"


@pytest.mark.parametrize(
    ("stage", "number", "kind", "text"),
    [
        ("import", "None", HostError, "BCC is not installed"),
        ("btf", "None", HostError, "it says why"),
        ("compile", "None", ProgramError, "not compiled"),
        ("load", "13", ProgramError, "not accepted"),
        ("load", "1", HostError, "does not let us trace"),
        ("attach", "1", HostError, "does not let us trace"),
        ("attach", "2", HostError, "could not be attached"),
        ("internal", "None", ProgramError, "the loader failed"),
    ],
)
def test_each_stage_has_its_error_and_says_what_to_do(load, stage, number, kind, text):
    with pytest.raises(kind, match=text) as error:
        load(fails(stage, number=number))

    assert error.value.advice


def test_the_compilers_first_error_is_shown_and_the_rest_kept(load):
    said = "print('warning: x\\nf.c:3: error: no such thing\\nf.c:9: error: nor this', file=sys.stderr, flush=True)\n"
    with pytest.raises(ProgramError, match=r"f\.c:3: error: no such thing") as error:
        load(said + fails("compile"))

    assert "nor this" in error.value.log


def test_a_map_that_the_kernel_refuses_tells_of_locked_memory(load):
    said = "print('could not open bpf map: events, error: Operation not permitted', file=sys.stderr, flush=True)\n"
    with pytest.raises(HostError, match="locked memory") as error:
        load(said + fails("compile"))

    assert "ulimit -l unlimited" in error.value.advice


@pytest.mark.parametrize(
    "said", ["unknown func bpf_probe_read_kernel#113", "program of this type cannot use helper bpf_probe_read_kernel#113"]
)
def test_a_verifier_that_misses_the_helper_for_kernel_memory_tells_of_a_lockdown(load, said):
    with pytest.raises(HostError, match="locked down") as error:
        load(f"print({said!r}, file=sys.stderr, flush=True)\n" + fails("load", number="22"))

    assert "lockdown=integrity" in error.value.advice


@pytest.mark.parametrize(
    ("code", "text"), [("sys.exit(7)", "exit code 7"), ("os.kill(os.getpid(), 9)", "signal 9"), ("raise ValueError", "exit code 1")]
)
def test_a_child_that_dies_is_one_error(load, code, text):
    with pytest.raises(ProgramError, match=text):
        load(code)


def test_a_child_that_hangs_is_ended(load, tmp_path):
    with pytest.raises(ProgramError, match=r"took more than 0\.5 s"):
        load(f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\nimport time\ntime.sleep(600)", timeout_s=0.5)

    pid = (tmp_path / "pid").read_text()
    assert not pid or not Path("/proc", pid).exists()


def test_a_python_that_is_not_there_is_one_error(load):
    with pytest.raises(HostError, match="cannot run /nonexistent/python"):
        load("", python="/nonexistent/python")


HAND_OVER = """
import array
first, second = os.memfd_create("a"), os.memfd_create("b")
os.write(first, b"one"); os.write(second, b"two")
print("x" * 1_000_000, file=sys.stderr, flush=True)
message = json.dumps({"fds": ["events", "program:p"], "hooks": [{"hook": "state", "kind": "raw_tracepoint", "tried": []}], "bcc": "9"})
reply.sendmsg([message.encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [first, second]))])
os._exit(0)
"""


def test_descriptors_come_over_under_their_names_however_much_the_child_says(load):
    loaded = load(HAND_OVER)

    assert (b"one", b"two") == tuple(os.pread(loaded.descriptors[name], 9, 0) for name in ("events", "program:p"))
    assert ({"p": loaded.descriptors["program:p"]}, "9", "state") == (loaded.programs, loaded.bcc, loaded.hooks[0].hook)
    loaded.close()


def test_neither_success_nor_failure_leaves_a_descriptor_or_a_child(load):
    before, children = os.listdir("/proc/self/fd"), Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    load(HAND_OVER).close()
    with pytest.raises(ProgramError):
        load("sys.exit(1)")

    assert len(before) == len(os.listdir("/proc/self/fd"))
    assert children == Path(f"/proc/self/task/{os.getpid()}/children").read_text()


def test_the_real_child_without_bcc_says_that_bcc_is_missing(tmp_path):
    if "bcc" in sys.modules or Path(sys.prefix, "lib", "python3", "dist-packages", "bcc").exists():
        pytest.skip("this Python has bcc")
    with Loader(sys.executable, REQUEST) as loader, pytest.raises(HostError, match="BCC is not installed"):
        loader.result()
