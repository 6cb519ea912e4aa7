# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace
from pathlib import Path

import pytest

from tracer.errors import HostError, UsageError
from tracer.events.filters import CaptureFilter, parse_networks
from tracer.kernel.facts import HostFacts, capabilities, cpu_count, kernel_version, lockdown_mode
from tracer.kernel.plan import CapturePlan, accept_plan, check_host, filter_defines, make_request, parse_ring_size

ABLE = HostFacts(
    release="6.1.0-9-amd64",
    version=(6, 1),
    machine="x86_64",
    root=True,
    capabilities=frozenset({"CAP_SYS_ADMIN", "CAP_BPF", "CAP_PERFMON"}),
    btf=True,
    tracefs=False,
    lockdown="integrity",
    possible_cpus=3,
    home_netns=4026531840,
    bcc_python="/usr/bin/python3",
)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"version": (5, 7), "release": "5.7.3"}, "kernel 5.7.3 is too old"),
        ({"version": (4, 15)}, "too old"),
        ({"root": False, "capabilities": frozenset()}, "needs root"),
        ({"root": False, "capabilities": frozenset({"CAP_BPF"})}, "needs root"),
        ({"capabilities": frozenset({"CAP_NET_ADMIN", "CAP_BPF"})}, "this root has neither"),
        ({"lockdown": "confidentiality"}, "locked down"),
        ({"btf": False}, "no type information"),
        ({"bcc_python": None}, "no Python with BCC"),
    ],
)
def test_a_host_that_cannot_trace_is_told_why_and_what_to_do(change, problem):
    with pytest.raises(HostError, match=problem) as error:
        check_host(replace(ABLE, **change))

    assert error.value.advice


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"version": (5, 8)},
        {"root": False, "capabilities": frozenset({"CAP_BPF", "CAP_PERFMON"})},
        {"root": False, "capabilities": frozenset({"CAP_SYS_ADMIN"})},
        {"lockdown": ""},
        {"tracefs": True},
    ],
)
def test_a_host_that_can_trace_is_not_refused(change):
    check_host(replace(ABLE, **change))


@pytest.mark.parametrize(("text", "size"), [("4K", 4096), ("4096", 4096), ("1M", 1 << 20), ("16m", 1 << 24), ("1G", 1 << 30)])
def test_ring_sizes_are_powers_of_two_from_a_page_on(text, size):
    assert size == parse_ring_size(text)


@pytest.mark.parametrize("text", ["1K", "3M", "x", "", "0", "2G", "-4M", "4MB", "M", "1.5M", "\u0664K"])
def test_a_bad_ring_size_is_one_clear_error(text):
    with pytest.raises(UsageError, match="bad ring size"):
        parse_ring_size(text)


def test_a_filter_becomes_the_constants_of_filter_h():
    keep = CaptureFilter(((80, 80),), ((1, 2), (9, 9)), (), 6, parse_networks(["10.0.0.0/8"]), 77)

    assert {
        "KEEP_PORTS": "X(80,80)",
        "KEEP_LPORTS": "X(1,2) X(9,9)",
        "KEEP_FAMILY": "6",
        "KEEP_NETNS": "77U",
        "KEEP_NETWORKS": "X(0x0U,0x0U,0xffff0000U,0xaU,0xffffffffU,0xffffffffU,0xffffffffU,0xffU)",
    } == filter_defines(keep)
    assert {} == filter_defines(CaptureFilter())


def test_the_accept_hook_is_good_to_have_unless_it_was_asked_for():
    assert [False, True, False] == [accept_plan(choice).required for choice in ("auto", "syscall", "off")]
    assert () == accept_plan("off").candidates


def test_accepts_are_seen_by_the_best_hook_first_or_by_the_one_that_was_asked_for():
    assert ["fexit", "kprobe", "syscall"] == [candidate.kind for candidate in accept_plan("auto").candidates]
    for kind in ("fexit", "kprobe", "syscall"):
        assert [kind] == [candidate.kind for candidate in accept_plan(kind).candidates]


def test_a_request_names_the_programs_and_leaves_out_what_is_off():
    with_accept = make_request(ABLE, CapturePlan(), Path("/b"))
    without = make_request(ABLE, CapturePlan(accept_hook="off"), Path("/b"))

    assert ("/b/tcptrace.bpf.c", "/b/kernel-headers", "3", "4026531840U") == (
        with_accept.source,
        with_accept.headers,
        with_accept.defines["CPUS"],
        with_accept.defines["HOME_NETNS"],
    )
    optional = {"WITH_ACCEPT_FEXIT", "WITH_ACCEPT_KPROBE", "WITH_ACCEPT_SYSCALL"}
    assert (optional, set()) == (optional & with_accept.defines.keys(), optional & without.defines.keys())
    assert "WITH_STATE_TRACEPOINT" in without.defines
    assert "state" == with_accept.hooks[0].hook
    assert with_accept.hooks[0].required


@pytest.mark.parametrize(("release", "version"), [("6.18.44-fc-v769", (6, 18)), ("5.8-rc1", (5, 8)), ("odd", (0, 0)), ("6.x", (0, 0))])
def test_a_release_gives_its_first_two_numbers(release, version):
    assert version == kernel_version(release)


def test_capabilities_are_read_from_the_effective_set():
    assert {"CAP_BPF", "CAP_SYS_ADMIN"} == capabilities("CapInh:\t0\nCapEff:\t0000008000200000\nCapBnd:\tffff\n")
    assert frozenset() == capabilities("")


@pytest.mark.parametrize(("text", "mode"), [("none [integrity] confidentiality\n", "integrity"), ("[none] integrity", "none"), ("", "")])
def test_the_lockdown_mode_is_the_one_in_brackets(text, mode):
    assert mode == lockdown_mode(text)


@pytest.mark.parametrize(("text", "count"), [("0-3\n", 4), ("0\n", 1), ("0-3,8-11", 12)])
def test_cpus_are_counted_to_the_highest_number(text, count):
    assert count == cpu_count(text)
