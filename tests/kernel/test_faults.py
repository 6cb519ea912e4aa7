# SPDX-License-Identifier: Apache-2.0
"""Hosts that lack something: the next best hook, or one clear error; never a traceback."""

import json
import subprocess
import sys

import pytest

from tests.kernel.conftest import ROOT
from tests.kernel.hooks import load, request_of, working
from tracer.kernel.facts import probe
from tracer.kernel.plan import ACCEPT_CANDIDATES, Candidate, HookPlan

EVENTS = [sys.executable, "-m", "tracer", "events", "--duration", "0.2"]
DOCTOR = [sys.executable, "-m", "tracer", "doctor", "--json"]


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def on_a_host_where(change, *command):
    """Runs a command in a mount namespace of its own that a shell command has changed."""
    return run("unshare", "--mount", "bash", "-c", f'{change} && exec "$@"', "bash", *command)


def hooks_of(done):
    assert done.returncode == 0, done.stdout + done.stderr
    return {hook["hook"]: hook["kind"] for hook in json.loads(done.stdout)["hooks"]}


def test_a_function_that_has_gone_between_plan_and_attach_gives_the_next_best_hook():
    gone = [Candidate(c.kind, c.programs, ("inet_csk_no_such_function",)) for c in ACCEPT_CANDIDATES[:2]]
    loaded = load(request_of(HookPlan("accept", False, (*gone, ACCEPT_CANDIDATES[2]))))
    accept = next(hook for hook in loaded.hooks if hook.hook == "accept")
    loaded.close()

    assert ("syscall", ["fexit", "kprobe"]) == (accept.kind, [attempt.kind for attempt in accept.tried])
    assert "no function inet_csk_no_such_function" in accept.tried[0].error


def test_a_function_that_has_gone_leaves_no_return_probe_behind():
    if "kprobe" not in working()["accept"]:
        pytest.skip("this kernel has no kprobe for accept")
    second_gone = Candidate("kprobe", ("on_accept_return", "on_accept_entry"), ("inet_csk_no_such_function",))
    loaded = load(request_of(HookPlan("accept", False, (second_gone,))))
    loaded.close()
    defined = on_a_host_where("mountpoint -q /sys/kernel/tracing || mount -t tracefs t /sys/kernel/tracing", "cat", KPROBE_EVENTS)

    assert "no_such_function" not in defined.stdout


KPROBE_EVENTS = "/sys/kernel/tracing/kprobe_events"


def test_without_type_information_it_says_so():
    done = on_a_host_where("mount -t tmpfs none /sys/kernel/btf", *EVENTS)

    assert done.returncode == 3
    assert done.stderr.splitlines()[0].startswith("tcptrace: error: this kernel has no type information")


def test_a_kernel_locked_down_for_confidentiality_is_refused_at_once():
    lockdown = "mount -t tmpfs none /sys/kernel/security && echo 'none integrity [confidentiality]' >/sys/kernel/security/lockdown"
    done = on_a_host_where(lockdown, *EVENTS)

    assert done.returncode == 3
    assert done.stderr.splitlines()[0].startswith("tcptrace: error: the kernel is locked down (confidentiality)")


def test_with_a_read_only_sys_the_best_hooks_that_need_no_tracefs_or_can_mount_it_are_used():
    done = on_a_host_where("mount -o remount,bind,ro /sys", *DOCTOR)

    hooks = hooks_of(done)
    assert hooks["state"] == "raw_tracepoint"
    assert hooks["accept"] == working()["accept"][0]


#: Maps count as locked memory, and BCC raises the limit.
MAPS_ARE_LOCKED = probe().version < (5, 11)
#: A container with the two capabilities that BPF needs, and without the one that mounts a tracefs.
NO_MOUNT = ["setpriv", "--bounding-set", "-all,+bpf,+perfmon,+net_admin" + ",+sys_resource" * MAPS_ARE_LOCKED, "--"]
#: Most containers.
NO_BPF = ["setpriv", "--bounding-set", "-bpf,-perfmon,-sys_admin", "--"]
UNMOUNTED = "{ umount -q /sys/kernel/tracing; umount -q /sys/kernel/debug; true; }"


def test_without_tracefs_and_without_the_right_to_mount_it_states_are_traced_all_the_same():
    done = on_a_host_where(UNMOUNTED, *NO_MOUNT, *DOCTOR)

    hooks = hooks_of(done)
    assert hooks["state"] == "raw_tracepoint"
    assert hooks["accept"] in ("fexit", None)
    accept = next(hook for hook in json.loads(done.stdout)["hooks"] if hook["hook"] == "accept")
    if hooks["accept"] is None:
        assert "tracefs" in next(attempt["error"] for attempt in accept["tried"] if attempt["kind"] == "syscall")


def test_a_hook_that_was_asked_for_and_needs_a_tracefs_is_one_clear_error_without():
    done = on_a_host_where(UNMOUNTED, *NO_MOUNT, *EVENTS, "--accept-hook", "syscall")

    assert done.returncode == 3
    assert done.stderr.startswith("tcptrace: error: ")
    assert "tracefs" in done.stderr


def test_too_little_locked_memory_is_one_clear_error():
    if not MAPS_ARE_LOCKED:
        pytest.skip("on this kernel maps do not count as locked memory")
    done = run("setpriv", "--bounding-set", "-sys_resource", "--", "bash", "-c", 'ulimit -l 64 && exec "$@"', "bash", *EVENTS)

    assert done.returncode == 3
    assert done.stderr.startswith("tcptrace: error: the kernel does not let us make BPF maps")
    assert "ulimit -l unlimited" in done.stderr


def test_root_in_a_container_without_cap_bpf_is_told_what_it_lacks():
    done = run(*NO_BPF, *EVENTS)

    assert done.returncode == 3
    assert done.stderr.splitlines()[0] == "tcptrace: error: this root has neither CAP_BPF and CAP_PERFMON nor CAP_SYS_ADMIN"
