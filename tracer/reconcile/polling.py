# SPDX-License-Identifier: Apache-2.0
"""
A capture without BPF: the socket table, read again and again, and what changed in between as events.

For hosts and users that may not load BPF. It sees states, not transitions: a connection that lives between two looks is not seen
at all, and one event may stand for several transitions. Hooks say "polling" wherever they are shown.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, TypeAlias

import numpy as np
import psutil

from tracer.events.addresses import pack_address
from tracer.events.batch import EventBatch
from tracer.events.clock import WallClock
from tracer.events.schema import EVENT_DTYPE, STATES, Flag, Kind, State, no_events
from tracer.kernel.counters import CounterTotals
from tracer.kernel.facts import HostFacts, probe
from tracer.kernel.loader import HookReport
from tracer.kernel.plan import CapturePlan
from tracer.reconcile.owners import process_identity

PERIOD_S = 1.0
#: Reading the table may take at most this share of one core.
MAX_SHARE = 0.02

#: Family, local address and port, remote address and port.
Key: TypeAlias = tuple[int, str, int, str, int]
#: Identity, state, process id or 0.
Seen: TypeAlias = tuple[int, int, int]


class PollingCapture:
    """
    The same face as kernel.capture.Capture, over psutil. A context manager.

    Without root the owners of other users' sockets stay unknown.
    """

    ring_high = 0
    ring_capacity = 1
    bcc = ""

    def __init__(self, plan: CapturePlan, read: Callable[[], list[Any]] = lambda: psutil.net_connections("tcp")) -> None:
        self.facts: HostFacts = probe()
        self.plan = plan
        self.hooks = (HookReport("state", "polling"), HookReport("accept", None))
        self._read = read
        self._clock = WallClock()
        self._next_identity = 1
        self._transitions = np.zeros((2, STATES, STATES), dtype=np.uint64)
        self._filtered = 0
        self._records = 0
        self._seen: dict[Key, Seen] = self._look({})

    def __enter__(self) -> "PollingCapture":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._seen.clear()

    def counters(self) -> CounterTotals:
        """What the looks have shown; nothing here comes from the kernel's own counting."""
        none = np.zeros(2, dtype=np.uint64)
        return CounterTotals(
            transitions=self._transitions.copy(),
            accepts=none,
            retransmits=none,
            resets_sent=none,
            resets_received=none,
            records=self._records,
            filtered=self._filtered,
            lost={},
            rescued=0,
            other_protocols=0,
        )

    def batches(self, stopped: Callable[[], bool], poll_s: float = 0.05) -> Iterator[EventBatch]:
        """As Capture.batches; the table is looked at once a second, or more seldom where that costs too much."""
        due = time.monotonic()
        while not stopped():
            if time.monotonic() >= due:
                before = time.thread_time()
                yield self.take()
                due = time.monotonic() + max(PERIOD_S, (time.thread_time() - before) / MAX_SHARE)
            else:
                time.sleep(min(poll_s, max(due - time.monotonic(), 0)))
                yield self._batch(no_events(), time.monotonic_ns())
        yield self.take()

    def take(self) -> EventBatch:
        """One look: an event for each socket that came, went or changed its state since the last."""
        now = self._look(self._seen)
        now_ns = time.monotonic_ns()
        closed = int(State.CLOSE)
        changes = [(key, closed, seen) for key, seen in now.items() if key not in self._seen]
        changes += [(key, self._seen[key][1], seen) for key, seen in now.items() if key in self._seen and self._seen[key][1] != seen[1]]
        changes += [(key, seen[1], (seen[0], closed, seen[2])) for key, seen in self._seen.items() if key not in now]
        self._seen = now
        events = np.zeros(len(changes), dtype=EVENT_DTYPE)
        for i, (key, old, seen) in enumerate(changes):
            self._fill(events[i], key, old, seen)
        events["ts_ns"] = now_ns
        np.add.at(self._transitions[0], (events["old_state"], events["new_state"]), 1)
        wanted = events[self.plan.keep.keep(events)]
        self._filtered += len(events) - len(wanted)
        self._records += len(wanted)
        return self._batch(wanted, now_ns)

    def _batch(self, events: Any, now_ns: int) -> EventBatch:
        return EventBatch(events, now_ns, self._clock.offset_ns())

    def _look(self, before: Mapping[Key, Seen]) -> dict[Key, Seen]:
        found: dict[Key, Seen] = {}
        for socket in self._read():
            state = STATE_BY_PSUTIL.get(socket.status)
            if state is None or not socket.laddr:
                continue
            remote = socket.raddr or ("", 0)
            key = (int(socket.family), socket.laddr[0], socket.laddr[1], remote[0], remote[1])
            identity = before[key][0] if key in before else self._new_identity()
            found[key] = (identity, state, socket.pid or (before[key][2] if key in before else 0))
        return found

    def _new_identity(self) -> int:
        self._next_identity += 1
        return self._next_identity

    def _fill(self, event: Any, key: Key, old: int, seen: Seen) -> None:
        family, saddr, event["sport"], daddr, event["dport"] = key
        event["saddr"], mapped = pack_address(saddr, family)
        event["daddr"], _ = pack_address(daddr, family)
        event["family"] = 4 if mapped else 6
        event["sock"], event["new_state"], event["tgid"] = seen
        event["kind"], event["old_state"], event["netns"] = Kind.STATE, old, self.facts.home_netns
        if seen[2]:
            event["flags"] = Flag.HAS_OWNER | Flag.OWNER_BY_SCAN
            event["comm"], event["uid"] = process_identity(seen[2])


#: psutil spells the states as the kernel does; its "NONE" is no state of ours.
STATE_BY_PSUTIL: Mapping[str, int] = {state.name: int(state) for state in State}
