# SPDX-License-Identifier: Apache-2.0
"""The real loader child with programs, fields and hooks that this kernel does not take."""

import shutil

import msgspec
import pytest

from tracer.errors import HostError, ProgramError
from tracer.kernel.capture import bpf_folder
from tracer.kernel.facts import probe
from tracer.kernel.loader import Loader
from tracer.kernel.plan import Candidate, CapturePlan, HookPlan, make_request


@pytest.fixture
def request_for(tmp_path):
    """A request for a copy of the programs with a line replaced."""

    def make(old="", new=""):
        folder = shutil.copytree(bpf_folder(), tmp_path / "bpf")
        source = folder / "tcptrace.bpf.c"
        text = source.read_text()
        assert old in text
        source.write_text(text.replace(old, new, 1))
        return make_request(probe(), CapturePlan(), folder)

    return make


def load(request):
    with Loader(probe().bcc_python, request) as loader:
        return loader.result()


def test_unchanged_programs_are_loaded_and_attached(request_for):
    loaded = load(request_for())

    assert {"state": "raw_tracepoint"}.items() <= {hook.hook: hook.kind for hook in loaded.hooks}.items()
    assert {"events", "counters"} < loaded.descriptors.keys()
    loaded.close()


def test_a_program_that_does_not_compile_is_one_error_with_the_compilers_line(request_for):
    with pytest.raises(ProgramError, match=r"not compiled: .*error: ") as error:
        load(request_for("KEY(count, depth) = key;", "KEY(count, depth) = nonsense;"))

    assert "nonsense" in error.value.log


def test_a_program_that_the_verifier_refuses_is_one_error_with_its_log(request_for):
    request = request_for(
        "struct counters *count = this_cpu_counters();\n\n  if (!count)\n    return 0;\n  leave_key",
        "struct counters *count = this_cpu_counters();\n\n  leave_key",
    )
    state = request.hooks[0]
    first = HookPlan("state", True, state.candidates[:1])
    with pytest.raises(ProgramError, match="not accepted") as error:
        load(msgspec.structs.replace(request, hooks=(first,)))

    assert "map_value_or_null" in error.value.log


def test_a_field_that_this_kernel_lacks_is_named(request_for):
    request = request_for()
    fields = {**request.fields, "SK_ERR": ("sock.sk_no_such_field", 4, True)}
    with pytest.raises(HostError, match=r"no field sock\.sk_no_such_field"):
        load(msgspec.structs.replace(request, fields=fields))


def test_a_hook_that_this_kernel_lacks_is_an_error_only_where_it_is_required(request_for):
    request = request_for()
    missing = (Candidate("raw_tracepoint", ("on_retransmit",), ("no_such_tracepoint",)),)
    good_to_have = msgspec.structs.replace(request, hooks=(*request.hooks[:1], HookPlan("retransmit", False, missing)))
    loaded = load(good_to_have)

    assert [("state", "raw_tracepoint"), ("retransmit", None)] == [(hook.hook, hook.kind) for hook in loaded.hooks]
    assert "no_such_tracepoint: No such file or directory" in loaded.hooks[1].tried[0].error
    loaded.close()
    with pytest.raises(HostError, match="no_such_tracepoint"):
        load(msgspec.structs.replace(request, hooks=(HookPlan("retransmit", True, missing),)))


def test_the_next_candidate_is_taken_where_the_first_is_refused(request_for):
    request = request_for()
    state = request.hooks[0]
    first = Candidate("raw_tracepoint", ("on_set_state",), ("no_such_tracepoint",))
    loaded = load(msgspec.structs.replace(request, hooks=(HookPlan("state", True, (first, *state.candidates)),)))

    assert ("raw_tracepoint", 1) == (loaded.hooks[0].kind, len(loaded.hooks[0].tried))
    loaded.close()
