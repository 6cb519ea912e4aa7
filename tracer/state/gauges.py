# SPDX-License-Identifier: Apache-2.0
"""
Sockets by state, exactly: the kernel side's counters since they began to count, plus what there was before.

What there was before is a constant, and is found by comparing the counters with the kernel's own table. Where no transition happens
while the table is read, one look tells it. Where traffic never rests, each look tells an interval, and the constant is in all of them.
"""

import numpy as np
import numpy.typing as npt

from tracer.events.records import take
from tracer.events.schema import STATES, EventArray, State
from tracer.state.counting import is_among
from tracer.state.lives import Lives
from tracer.state.samples import SocketDump, StateCounts, entered, left, state_changes
from tracer.state.tuples import tuple_keys

Integers = npt.NDArray[np.int64]

#: What a full socket can be in, in the order of a connection's life.
FULL_STATES = (
    State.LISTEN,
    State.SYN_SENT,
    State.SYN_RECV,
    State.ESTABLISHED,
    State.FIN_WAIT1,
    State.FIN_WAIT2,
    State.CLOSE_WAIT,
    State.LAST_ACK,
    State.CLOSING,
)
IS_GAUGE = np.isin(np.arange(STATES), FULL_STATES)

#: A program takes an event's time and counts it a moment later, and an interrupt may come in between.
SKEW_NS = 100_000
#: So many looks that are sharpened by events have to agree.
AGREEING_LOOKS = 2
#: So many looks in a row have to contradict a gauge.
CONFIRMING_LOOKS = 3
#: More than there can be sockets.
UNKNOWN = 1 << 40


class Offsets:
    """
    Constants known by intervals that are narrowed with each look.

    Args:
        size: how many.
        patience: looks in a row that have to contradict what is known, to the same side, before they are believed. A socket is not in
            the table at every moment between its first event and its last: connect() sets SYN_SENT before inet_hash_connect() has found
            a port, and tcp_time_wait() puts the mini-socket into the socket's place before CLOSE. Whoever looks may be the one who
            interrupts a task in such a moment: some in a hundred looks at a host that does nothing but connect.

    Attributes:
        low, high: inclusive bounds, shape (n,); equal where the constant is known.
        value: the constants as best known.
        known: they have been looked at.
    """

    def __init__(self, size: int, patience: int = 1) -> None:
        self._patience = patience
        self._contradictions: Integers = np.zeros(size, dtype=np.int64)
        self.low: Integers = np.zeros(size, dtype=np.int64)
        self.high: Integers = np.zeros(size, dtype=np.int64)
        self.value: Integers = np.zeros(size, dtype=np.int64)
        self.known = False

    @property
    def exact(self) -> npt.NDArray[np.bool_]:
        """Which constants are known exactly: shape (n,)."""
        equal: npt.NDArray[np.bool_] = self.low == self.high
        return equal & self.known

    def observe(self, low: Integers, high: Integers) -> Integers:
        """
        Narrows the intervals by another look.

        Args:
            low: shape (n,): no constant is less.
            high: shape (n,): no constant is more.

        Returns:
            Shape (n,): how far each constant as it was known lies above (or, negative, below) what it can be by this look; 0 where
            both agree, or that is only suspected. What does not agree is taken from this look from now on.
        """
        if not self.known:
            self.low, self.high, self.known = low.copy(), high.copy(), True
            self.value = (low + high) // 2
            return np.zeros(len(low), dtype=np.int64)
        gap: Integers = np.where(self.low > high, self.low - high, np.where(self.high < low, self.high - low, 0))
        side = np.sign(gap)
        same = side == np.sign(self._contradictions)
        self._contradictions = np.where(same, self._contradictions + side, side)
        agrees, contradicts = gap == 0, np.abs(self._contradictions) >= self._patience
        self.low = np.where(agrees, np.maximum(self.low, low), np.where(contradicts, low, self.low))
        self.high = np.where(agrees, np.minimum(self.high, high), np.where(contradicts, high, self.high))
        self.value = np.clip(self.value, self.low, self.high)
        return np.where(contradicts, gap, 0)


class Gauges:
    """
    Full sockets of the home network namespace by state.

    Drift is judged by the sound bounds alone, which need nothing but the order of table and counters. The sharper ones trust the times of
    events too, which an interrupt or a paused virtual CPU can falsify: they serve while the sound ones are no point yet, and count as
    exact only when several looks agree.
    """

    def __init__(self) -> None:
        self._sound = Offsets(STATES, patience=CONFIRMING_LOOKS)
        self._sharp = Offsets(STATES)
        self._agreeing: Integers = np.zeros(STATES, dtype=np.int64)

    @property
    def exact(self) -> npt.NDArray[np.bool_]:
        """Which gauges are exact: shape (STATES,)."""
        return self._sound.exact | (self._sharp.exact & (self._agreeing >= AGREEING_LOOKS))

    @property
    def doubt(self) -> StateCounts:
        """How far each gauge may be off: shape (STATES,)."""
        return np.where(self.exact, 0, self._sound.high - self._sound.low)

    @property
    def offsets(self) -> StateCounts:
        """Sockets by state when no transition had been counted yet, as best known: shape (STATES,)."""
        if not self._sharp.known:
            return self._sound.value
        return np.clip(self._sharp.value, self._sound.low, self._sound.high)

    def now(self, transitions: npt.NDArray[np.int64]) -> StateCounts:
        """The gauges, shape (STATES,), from the counters of shape (STATES, STATES); only after a look."""
        now = self.offsets + state_changes(transitions)
        return np.where(self.exact, now, np.maximum(now, 0))

    def observe(self, dump: SocketDump, events: EventArray | None) -> StateCounts:
        """
        Compares with the kernel's table.

        Args:
            dump: the table, and the counters around it.
            events: every state event of the namespace from the beginning of the dump on, or None where some may be missing.

        Returns:
            The drift, shape (STATES,): sockets that we had too many of, or, negative, too few, in CONFIRMING_LOOKS looks in a row.
        """
        low, high = (np.where(IS_GAUGE, bound, 0) for bound in plain_bounds(dump))
        drift = self._sound.observe(low, high)
        if events is not None and not self._sound.exact.all():
            self._sharpen(*bounds_by_events(dump, events))
        return drift

    def _sharpen(self, low: Integers, high: Integers) -> None:
        low, high = (np.where(IS_GAUGE, bound, 0) for bound in (low, high))
        possible = (low <= self._sound.high) & (high >= self._sound.low)
        low = np.where(possible, np.maximum(low, self._sound.low), self._sound.low)
        high = np.where(possible, np.minimum(high, self._sound.high), self._sound.high)
        contradicted = self._sharp.observe(low, high) != 0
        self._agreeing = np.where(contradicted, 0, self._agreeing + 1)


def plain_bounds(dump: SocketDump) -> tuple[Integers, Integers]:
    """
    What the constants can be, from the dump and the counters alone: shape (STATES,) each, inclusive.

    Each socket was seen at some moment between the first reading and the second. Seen in a state that it has left by the second, or
    not seen in one that it has entered, it was among the transitions in between.
    """
    first, second = dump.readings[0].transitions, dump.readings[1].transitions
    between = second - first
    constant = dump.counts() - state_changes(second)
    return constant - left(between), constant + entered(between)


def bounds_by_events(dump: SocketDump, events: EventArray) -> tuple[Integers, Integers]:
    """
    The same with the events that came meanwhile.

    A socket that none of them touched was in the state in which it was seen all along, and of the others the events tell the state at
    any time. What remains open is which events a reading of the counters has in it already: those of the microseconds around it.

    Args:
        dump: the table, and the counters around it.
        events: shape (m,), EVENT_DTYPE: all state events of the namespace since the dump began, in ring order.
    """
    then_ns = dump.readings[1].begin_ns - SKEW_NS
    ts = events["ts_ns"].astype(np.int64)
    sockets, doubt = states_at(dump, take(events, np.flatnonzero(ts >= dump.begin_ns - SKEW_NS)), then_ns)
    lows, highs = [], []
    for reading in dump.readings[1:]:
        counted = events[(ts > then_ns) & (ts < reading.begin_ns - SKEW_NS)]
        around = events[(ts >= reading.begin_ns - SKEW_NS) & (ts <= reading.end_ns + SKEW_NS)]
        constant = sockets - state_changes(reading.transitions) + state_changes(transition_matrix(counted))
        open_question = transition_matrix(around)
        lows.append(constant - doubt - left(open_question))
        highs.append(constant + doubt + entered(open_question))
    return np.max(lows, axis=0), np.min(highs, axis=0)


def transition_matrix(events: EventArray) -> Integers:
    """How often each transition is among state events: shape (STATES, STATES), [old][new]."""
    index = events["old_state"].astype(np.intp) * STATES + events["new_state"]
    return np.bincount(index, minlength=STATES * STATES).reshape(STATES, STATES).astype(np.int64)


def states_at(dump: SocketDump, events: EventArray, then_ns: int) -> tuple[StateCounts, StateCounts]:
    """
    Sockets by state at a time within the dump, and how far that may be off: shape (STATES,) each.

    Args:
        dump: the table.
        events: shape (m,): every state event from the beginning of the dump on; later ones tell of the ports of earlier ones.
        then_ns: the time.
    """
    placed = take(events, np.flatnonzero(events["sport"] != 0))
    untouched = ~is_among(tuple_keys(dump.sockets), tuple_keys(placed))
    counts = np.bincount(dump.sockets["state"][untouched], minlength=STATES).astype(np.int64)
    doubt = np.zeros(STATES, dtype=np.int64)
    if not len(events):
        return counts, doubt
    ordered = take(events, np.argsort(events["sock"], kind="stable"))
    lives = Lives(ordered)
    decisive = lives.last_of(ordered["ts_ns"] <= then_ns)
    state = np.where(decisive >= 0, ordered["new_state"][decisive], ordered["old_state"][lives.first])
    exists = ((decisive >= 0) | ~lives.born) & (state != State.CLOSE)
    counts += np.bincount(state[exists], minlength=STATES)
    # Whether the table shows a socket that has no port yet in its last event cannot be told; nor which of several listeners of one port.
    last = ordered[lives.last]
    doubt[State.SYN_SENT] = np.count_nonzero((last["sport"] == 0) & (last["new_state"] == State.SYN_SENT))
    listening = (events["old_state"] == State.LISTEN) & (events["new_state"] != State.SYN_RECV) | (events["new_state"] == State.LISTEN)
    doubt[State.LISTEN] = UNKNOWN if listening.any() else 0
    return counts, doubt
