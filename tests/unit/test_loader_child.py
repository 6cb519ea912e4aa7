# SPDX-License-Identifier: Apache-2.0
"""What the loader child works out before it asks the kernel for anything; its modules are scripts for the system's Python."""

import ast
import errno
import importlib
import os
import sys

import pytest

from tracer.kernel.loader import CHILD
from tracer.kernel.plan import PROGRAM_MACROS

MODULES = ("attach", "bpf", "btf", "perf", "prepare", "return_probe", "system")

#: As of a kernel with CONFIG_PREEMPT_LAZY: the common fields take more than the usual 8 bytes.
FORMAT = """\
name: inet_sock_set_state
ID: 1532
format:
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;
\tfield:unsigned char common_flags;\toffset:2;\tsize:1;\tsigned:0;
\tfield:unsigned char common_preempt_count;\toffset:3;\tsize:1;\tsigned:0;
\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;
\tfield:unsigned char common_preempt_lazy_count;\toffset:8;\tsize:1;\tsigned:0;

\tfield:const void * skaddr;\toffset:16;\tsize:8;\tsigned:0;
\tfield:int oldstate;\toffset:24;\tsize:4;\tsigned:1;
\tfield:int newstate;\toffset:28;\tsize:4;\tsigned:1;
\tfield:__u8 saddr_v6[16];\toffset:46;\tsize:16;\tsigned:0;

print fmt: "oldstate=%s newstate=%s", REC->oldstate, REC->newstate
"""


@pytest.fixture
def child(monkeypatch):
    """Imports a module of the loader child."""
    monkeypatch.syspath_prepend(str(CHILD))
    yield importlib.import_module
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.fixture
def tracefs(child, tmp_path, monkeypatch):
    """An own tracefs with one tracepoint."""
    folder = tmp_path / "events" / "sock" / "inet_sock_set_state"
    folder.mkdir(parents=True)
    (folder / "format").write_text(FORMAT)
    monkeypatch.setattr(child("system"), "EVENT_FOLDERS", (str(tmp_path / "nowhere" / "events"), str(tmp_path / "events")))
    return tmp_path


@pytest.mark.parametrize("path", sorted(CHILD.glob("*.py")), ids=lambda path: path.name)
def test_the_child_is_written_for_the_oldest_python_that_has_a_bcc_with_ring_buffers(path):
    ast.parse(path.read_text(), feature_version=(3, 8))


def test_a_tracepoint_is_looked_for_where_tracefs_is_and_one_that_is_not_there_is_an_error(child, tracefs):
    with pytest.raises(FileNotFoundError):
        child("perf").attach_tracepoint(-1, "sock", "inet_sock_set_state")
    (tracefs / "events" / "sock" / "inet_sock_set_state" / "id").write_text("1532\n")
    asked = []
    child("perf").open_event = lambda number: asked.append(number) or os.open(os.devnull, os.O_RDONLY)
    with pytest.raises(OSError, match="Inappropriate ioctl"):
        child("perf").attach_tracepoint(-1, "sock", "inet_sock_set_state")

    assert [1532] == asked


def test_a_perf_event_is_asked_for_with_the_first_version_of_its_attributes(child):
    assert 64 == child("perf").ATTRIBUTES.size  # PERF_ATTR_SIZE_VER0


def test_offsets_are_those_of_the_format_file_not_the_usual_ones(child, tracefs):
    fields = ["skaddr", "oldstate", "newstate", "common_pid"]

    assert [16, 24, 28, 4] == child("system").field_offsets("sock", "inet_sock_set_state", fields)


def test_a_field_or_a_tracepoint_that_is_not_there_is_an_error(child, tracefs):
    with pytest.raises(OSError, match="no field state"):
        child("system").field_offsets("sock", "inet_sock_set_state", ["state"])
    with pytest.raises(FileNotFoundError):
        child("system").field_offsets("sock", "no_such_event", ["skaddr"])


class OneFunction:
    """Types of a kernel that has one function, with two parameters."""

    def __init__(self, error, name):
        self._error, self._name = error, name

    def function(self, name):
        if name != self._name:
            raise self._error("this kernel has no function " + name)
        return 4711, 2


def test_what_can_be_had_is_prepared_and_what_cannot_is_left_out_with_its_reason(child, tracefs):
    prepare, btf = child("prepare"), child("btf")
    defines = dict.fromkeys(PROGRAM_MACROS.values(), "1")
    unavailable = prepare.prepare(OneFunction(btf.BtfError, "inet_csk_accept"), defines)

    assert ("2", 16, 24, 28) == tuple(
        defines[n] for n in ("ACCEPT_PARAMETERS", "SET_STATE_SKADDR", "SET_STATE_OLDSTATE", "SET_STATE_NEWSTATE")
    )
    assert {"WITH_ACCEPT_FEXIT", "WITH_STATE_TRACEPOINT"} == defines.keys() & set(PROGRAM_MACROS.values())
    assert {"kprobe", "syscall"} == unavailable.keys()
    reason, number = unavailable["kprobe"]
    assert ("No such file or directory", errno.ENOENT) == (reason.partition(":")[0], number)


def test_a_kernel_without_the_function_has_no_fexit(child, tracefs):
    prepare, btf = child("prepare"), child("btf")
    defines = {"WITH_ACCEPT_FEXIT": "1"}

    unavailable = prepare.prepare(OneFunction(btf.BtfError, "something_else"), defines)
    assert ({"fexit": ("this kernel has no function inet_csk_accept", None)}, {}) == (unavailable, defines)


def test_every_kind_that_the_plan_compiles_on_request_is_known_to_the_child(child):
    assert PROGRAM_MACROS == {kind: macro for kind, (macro, _) in child("prepare").NEEDS.items()}


def test_bccs_own_words_for_a_refusal_give_its_number(child):
    errno_in = child("attach").errno_in

    assert errno.EPERM == errno_in("Need super-user privileges to run")
    assert errno.EINVAL == errno_in("Failed to load BPF program b'x': Invalid argument")
    assert errno_in("something else") is None


def test_only_definitions_of_tcptraces_that_are_gone_are_removed(child, tracefs, monkeypatch):
    probes, me = child("return_probe"), str(child("os").getpid())
    gone = "4194305"  # above PID_MAX_LIMIT
    lines = [f"r4096:tcptrace/accept_{gone}_1 inet_csk_accept", f"r4096:tcptrace/accept_{me}_2 inet_csk_accept", "p:other/accept_9_9 x"]
    (tracefs / "kprobe_events").write_text("\n".join(lines) + "\n")
    removed = []
    monkeypatch.setattr(probes, "remove", lambda _, name: removed.append(name))
    probes.remove_what_was_left(-1)

    assert [f"tcptrace/accept_{gone}_1"] == removed
