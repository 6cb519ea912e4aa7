# SPDX-License-Identifier: Apache-2.0
"""Each way to see state changes, wherever the kernel has it."""

from collections import Counter

import numpy as np
import pytest

from tests.kernel.conftest import SkippedProgramError, wait_until
from tests.kernel.hooks import STATE_KINDS, load, promised, request_of, working
from tracer.events.filters import CaptureFilter
from tracer.events.schema import STATE_NAMES, Kind
from tracer.kernel.capture import Capture
from tracer.kernel.facts import probe
from tracer.kernel.plan import STATE_HOOK, CapturePlan, HookPlan

COUNT = 23
#: Of one connection whose client closes: the client's five, and the server's.
CHANGES = [
    *[("CLOSE", "SYN_SENT"), ("SYN_SENT", "ESTABLISHED"), ("ESTABLISHED", "FIN_WAIT1"), ("FIN_WAIT1", "FIN_WAIT2"), ("FIN_WAIT2", "CLOSE")],
    *[
        ("LISTEN", "SYN_RECV"),
        ("SYN_RECV", "ESTABLISHED"),
        ("ESTABLISHED", "CLOSE_WAIT"),
        ("CLOSE_WAIT", "LAST_ACK"),
        ("LAST_ACK", "CLOSE"),
    ],
]


@pytest.mark.guest
@pytest.mark.parametrize("kind", STATE_KINDS)
def test_each_state_hook_shows_all_ten_transitions(netns, kind):
    if kind not in working()["state"]:
        assert kind not in (promised() or {}).get("state", [])
        pytest.skip(f"this kernel has no {kind} for the state")
    plan = CapturePlan(CaptureFilter(netns=netns.inode))
    candidate = next(c for c in STATE_HOOK.candidates if c.kind == kind)
    with Capture(probe(), plan, load(request_of(HookPlan("state", True, (candidate,)), plan=plan))) as capture:
        # One thread is both ends: with two a softirq may come within the program, and the classic tracepoint loses that event.
        done = netns.traffic("alone", count=COUNT, port=20_011, rate=1000)
        wait_until(lambda: capture._ring.reader.pending >= 11 * COUNT + 2, "the events")
        batch = capture.take()
        if batch.lost:
            raise SkippedProgramError(batch.lost)

    events = batch.events[batch.events["kind"] == Kind.STATE]
    assert {done["port"]} == set(np.where(events["sport"] == done["port"], events["sport"], events["dport"]).tolist())
    seen = Counter((STATE_NAMES[old], STATE_NAMES[new]) for old, new in zip(events["old_state"], events["new_state"], strict=True))
    assert seen == {**dict.fromkeys(CHANGES, COUNT), ("CLOSE", "LISTEN"): 1, ("LISTEN", "CLOSE"): 1}
    owned = events[np.isin(events["new_state"], [STATE_NAMES.index("SYN_SENT"), STATE_NAMES.index("LAST_ACK")])]
    assert Counter(owned["tgid"].tolist()) == {done["pid"]: 2 * COUNT}
