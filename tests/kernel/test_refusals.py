# SPDX-License-Identifier: Apache-2.0
"""
Hosts that refuse something, booted so: scripts/vmtest --host NAME. test_faults.py has what can be had on any host.

On such a host one clear error says what to do, or the next best is used; there is never a traceback.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernel.conftest import ROOT
from tests.kernel.hooks import promised

COUNT = 23
TRACEFS = ("/sys/kernel/tracing", "/sys/kernel/debug")
LOCKED = "tcptrace: error: the kernel is locked down (confidentiality): BPF may not read kernel memory"


def tcptrace(*arguments, prefix=()):
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "tracer", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.fixture
def without_tracefs():
    """For good: the guest is thrown away."""
    subprocess.run(["umount", "-q", *TRACEFS], check=False)
    assert not any(Path(folder, "events").exists() or Path(folder, "tracing/events").exists() for folder in TRACEFS)


@pytest.mark.host("locked-down")
def test_this_kernel_is_really_locked_down():
    assert "[confidentiality]" in Path("/sys/kernel/security/lockdown").read_text()


@pytest.mark.host("locked-down")
@pytest.mark.parametrize("command", ["events", "conns", "live --json", "record -o /run/locked.arrows"])
def test_a_locked_down_kernel_is_one_error_that_says_what_to_do(command):
    done = tcptrace(*command.split())

    assert (3, "") == (done.returncode, done.stdout)
    assert [LOCKED] == done.stderr.splitlines()[:1]
    assert "lockdown=integrity" in done.stderr.splitlines()[1]
    assert not Path("/run/locked.arrows").exists()


@pytest.mark.host("locked-down")
def test_where_the_mode_cannot_be_read_the_kernels_refusal_says_the_same():
    hidden = ("unshare", "--mount", "sh", "-c", 'umount /sys/kernel/security && exec "$@"', "sh")
    done = tcptrace("events", prefix=hidden)

    assert (3, "") == (done.returncode, done.stdout)
    assert [LOCKED] == done.stderr.splitlines()[:1]


@pytest.mark.host("locked-down")
def test_doctor_tells_the_lockdown_and_that_this_host_cannot_trace():
    done = tcptrace("doctor")

    assert 3 == done.returncode
    assert "NO  lockdown             confidentiality" in done.stdout.splitlines()
    assert "This host cannot trace now: the kernel is locked down (confidentiality)" in done.stdout


@pytest.mark.host("locked-down")
def test_a_locked_down_kernel_can_be_polled(start, netns):
    tracer = start("live", "--json", "--no-bpf", "--duration", "1", prefix=netns.command())
    tracer.end()

    assert "polling" == tracer.events()[-1]["hooks"]["state"]


@pytest.mark.host("bare")
def test_without_tracefs_and_with_bpf_for_root_alone_every_hook_is_there(without_tracefs, trace, netns):
    assert "2" == Path("/proc/sys/kernel/unprivileged_bpf_disabled").read_text().strip()
    hooks = {hook["hook"]: hook["kind"] for hook in json.loads(tcptrace("doctor", "--json").stdout)["hooks"]}
    assert (promised()["state"][0], promised()["accept"][0]) == (hooks["state"], hooks["accept"])

    for kind in promised()["accept"]:
        tracer = trace("--accept-hook", kind)
        netns.traffic("pairs", count=COUNT)
        assert COUNT == sum(event["kind"] == "accept" for event in tracer.stop())


@pytest.mark.host("bare")
def test_who_is_not_root_is_told_so_and_can_poll(without_tracefs):
    nobody = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--")

    refused = tcptrace("events", prefix=nobody)
    assert 3 == refused.returncode
    assert ["tcptrace: error: tracing needs root"] == refused.stderr.splitlines()[:1]
    assert 0 == tcptrace("live", "--once", "--no-bpf", prefix=nobody).returncode
