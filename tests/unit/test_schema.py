# SPDX-License-Identifier: Apache-2.0
"""bpf/event.h is the definition: compiled here, and compared with what NumPy reads."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tracer.events.schema import ACCEPT_FIELDS, EVENT_DTYPE, STATE_NAMES, STATES, Flag, Kind
from tracer.kernel.counters import COUNTERS_DTYPE, _ProgramInfo
from tracer.kernel.ring import SLOT_DTYPE

HEADER = Path(__file__).resolve().parents[2] / "bpf" / "event.h"


@pytest.fixture(scope="module")
def evaluate(tmp_path_factory):
    """Values of C expressions, with event.h included."""
    if shutil.which("gcc") is None:
        reason = "needs gcc: apt-get install gcc libc6-dev"
        if os.environ.get("TCPTRACE_REQUIRE_KERNEL") == "1":
            pytest.fail(reason)
        pytest.skip(reason)

    def run(*expressions, include=f'"{HEADER}"'):
        folder = tmp_path_factory.mktemp("c")
        prints = "".join(f'printf("%ld\\n", (long)({e}));' for e in expressions)
        source = f"#include <stdio.h>\n#include <stddef.h>\n#include {include}\nint main(void) {{ {prints} return 0; }}\n"
        (folder / "p.c").write_text(source)
        subprocess.run(["gcc", "-o", str(folder / "p"), str(folder / "p.c")], check=True)
        return [int(line) for line in subprocess.run([str(folder / "p")], check=True, capture_output=True, text=True).stdout.split()]

    return run


def layout(evaluate, struct, dtype):
    names = list(dtype.names)
    values = evaluate(*[f"offsetof(struct {struct}, {n})" for n in names], *[f"sizeof(((struct {struct} *)0)->{n})" for n in names])
    return dict(zip(names, zip(values[: len(names)], values[len(names) :], strict=True), strict=True))


@pytest.mark.parametrize(("struct", "dtype"), [("event", EVENT_DTYPE), ("counters", COUNTERS_DTYPE)])
def test_every_field_is_where_c_puts_it(evaluate, struct, dtype):
    numpy_layout = {name: (dtype.fields[name][1], dtype.fields[name][0].itemsize) for name in dtype.names}

    assert layout(evaluate, struct, dtype) == numpy_layout
    assert evaluate(f"sizeof(struct {struct})") == [dtype.itemsize]


def test_numpy_has_every_field_that_c_has():
    text = HEADER.read_text()
    body = text[text.index("struct event {") : text.index("\n};", text.index("struct event {"))]
    fields = re.findall(r"^ +(?:__u\w+|char) (\w+)", body, re.MULTILINE)

    assert list(EVENT_DTYPE.names) == [name for name in fields if name not in ACCEPT_FIELDS]
    assert [*ACCEPT_FIELDS] == [name for name in fields if name in ACCEPT_FIELDS]


def test_what_an_accept_has_in_place_of_another_field_is_where_that_field_is(evaluate):
    for name, field in ACCEPT_FIELDS.items():
        here = (f"offsetof(struct event, {name})", f"sizeof(((struct event *)0)->{name})")
        assert [EVENT_DTYPE.fields[field][1], EVENT_DTYPE[field].itemsize] == evaluate(*here)


def test_a_slot_is_two_cache_lines():
    assert (120, 128) == (EVENT_DTYPE.itemsize, SLOT_DTYPE.itemsize)


def test_the_enums_are_the_same(evaluate):
    kinds = [kind for kind in Kind if kind is not Kind.LOST]
    flags = [Flag.HAS_OWNER, Flag.HAS_TOTALS, Flag.HAS_BACKLOG]

    assert [int(kind) for kind in kinds] == evaluate(*[f"EVENT_{kind.name}" for kind in kinds])
    assert [int(flag) for flag in flags] == evaluate(*[f"EVENT_{flag.name}" for flag in flags])
    assert [STATES] == evaluate("STATES")


def test_the_states_are_the_kernels(evaluate):
    names = [
        "ESTABLISHED",
        "SYN_SENT",
        "SYN_RECV",
        "FIN_WAIT1",
        "FIN_WAIT2",
        "TIME_WAIT",
        "CLOSE",
        "CLOSE_WAIT",
        "LAST_ACK",
        "LISTEN",
        "CLOSING",
    ]

    assert [STATE_NAMES.index(name) for name in names] == evaluate(*[f"TCP_{name}" for name in names], include="<netinet/tcp.h>")


def test_the_count_of_skipped_calls_is_read_where_the_kernel_writes_it(evaluate):
    expected = evaluate("offsetof(struct bpf_prog_info, recursion_misses)", include="<linux/bpf.h>")

    assert expected == [_ProgramInfo.recursion_misses.offset]


def test_comm_loses_its_padding_only():
    event = np.zeros(1, dtype=EVENT_DTYPE)
    event["comm"] = b"a b"

    assert [b"a b"] == event["comm"].tolist()
