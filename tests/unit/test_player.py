# SPDX-License-Identifier: Apache-2.0
"""Replaying at a pace, with keys: by a clock of the test's own, that goes on only where the player waits."""

import pytest

import tracer.cli.player
from tests.unit.recordings import BEGAN_NS, NS, WALL_NS, make_lives, write
from tracer.cli.console import ConsoleScreen
from tracer.cli.options import CaptureOptions
from tracer.cli.player import Player
from tracer.cli.points import Point
from tracer.cli.recorded import RecordedCapture, no_counters
from tracer.cli.run import Stop, make_run
from tracer.events.batch import EventBatch
from tracer.log.codec import encode
from tracer.log.entries import Sample

SECONDS = 40


class Clock:
    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


class ScriptedScreen:
    """Presses each key at its time on the test's clock, in seconds since it began; keeps what it is shown."""

    reads_keys = True

    def __init__(self, clock, *script):
        self._clock, self._began = clock, clock.now
        self._script = list(script)
        self.shown = []

    def attach(self, pictures):
        pass

    def show(self, snapshot):
        self.shown.append((round(snapshot.uptime_s), self._clock.now - 1000, snapshot))

    def wait(self, seconds):
        if self._script and self._clock.now - self._began >= self._script[0][0]:
            return self._script.pop(0)[1]
        self._clock.now += max(seconds, 0.001)
        return ""


@pytest.fixture
def recording(tmp_path):
    """Forty seconds: each second a connection, a batch and a picture."""
    events, items = make_lives(SECONDS, step_ns=NS // 11), []
    for second in range(SECONDS):
        part = events[11 * second : 11 * (second + 1)]
        items.append(EventBatch(part, BEGAN_NS + (second + 1) * NS, WALL_NS))
        items.append(Sample("counters", encode(no_counters())))
    path = tmp_path / "run.arrows"
    path.write_bytes(write(items))
    return str(path)


@pytest.fixture
def play(recording, monkeypatch):
    """Plays with scripted keys; the second of each picture with the time it was shown at, and how long it all took."""

    def run_player(*script, speed=1.0, first=None, last=None):
        clock = Clock()
        monkeypatch.setattr(tracer.cli.player, "time", clock)
        screen = ScriptedScreen(clock, *script)
        with RecordedCapture((recording,), CaptureOptions().plan()) as capture:
            run = make_run(capture, CaptureOptions(), Stop())
            with Player(run, screen, speed, all_pictures=True) as player:
                player.play(1.0, first, last)
        return screen.shown, clock.now - 1000

    return run_player


def seconds(shown):
    """Of the pictures, without those that were shown again because of a key."""
    numbers = [second for second, _, _ in shown]
    return [n for i, n in enumerate(numbers) if i == 0 or n != numbers[i - 1]]


def test_it_takes_as_long_as_it_took(play):
    shown, took = play((60, "q"))

    assert [*range(1, SECONDS + 1)] == seconds(shown)
    assert all(abs(at - (second - 1)) < 0.2 for second, at, _ in shown[:-1])
    assert 60 <= took < 61


def test_twice_as_fast_takes_half_as_long(play):
    shown, _ = play((30, "q"), speed=2.0)

    assert abs(shown[SECONDS - 1][1] - (SECONDS - 1) / 2) < 0.2


def test_as_fast_as_possible_waits_for_nothing(play):
    shown, _ = play((1, "q"), speed=float("inf"))

    assert shown[SECONDS - 1][1] < 0.5


def test_space_pauses_and_goes_on(play):
    shown, _ = play((5.5, " "), (25.5, " "), (100, "q"))
    at = {second: time for second, time, _ in reversed(shown)}

    assert at[6] < 6
    assert at[8] > 25


def test_right_skips_ten_seconds_and_shows_what_was_then(play):
    straight, _ = play((50, "q"))
    skipped, _ = play((2.5, "right"), (50, "q"))
    found = {second: snapshot for second, _, snapshot in skipped}

    assert [1, 2, 3] == seconds(skipped)[:3]
    assert not set(range(5, 12)) & set(found)
    assert SECONDS in found
    expected = {second: snapshot for second, _, snapshot in straight}
    for second in seconds(skipped):
        assert expected[second].totals == found[second].totals
        assert expected[second].rates == found[second].rates


def test_left_goes_back_to_the_same_pictures(play):
    shown, _ = play((20.5, "left"), (60, "q"))
    found = seconds(shown)

    back = next(i for i in range(1, len(found)) if found[i] < found[i - 1])
    assert 21 == found[back - 1]
    assert found[back] in (11, 12)
    again = {}
    for second, _, snapshot in shown:
        assert again.setdefault(second, snapshot.totals) == snapshot.totals


def test_q_ends_it(play):
    shown, took = play((3.5, "q"))

    assert [1, 2, 3, 4] == seconds(shown)
    assert took < 4


def test_at_the_end_one_may_still_go_back(play):
    shown, _ = play((50, "home"), (100, "q"))

    assert [*range(1, SECONDS + 1), *range(1, SECONDS + 1)] == seconds(shown)


def test_plus_and_minus_change_the_speed(play):
    shown, _ = play((2.5, "+"), (2.6, "+"), (60, "q"))
    assert shown[-1][1] < 15

    slower, _ = play((2.5, "-"), (2.6, "-"), (500, "q"))
    assert slower[-1][1] > 100


class TypedTerminal:
    """A terminal on which several keys were pressed before anyone looked."""

    fd, active, gone = 0, False, False

    def __init__(self, *keys):
        self._keys = list(keys)

    def keys(self):
        keys, self._keys = self._keys, []
        return keys

    def has_changed(self):
        return False


def test_no_key_is_lost_that_is_typed_quickly():
    terminal = TypedTerminal(" ", "+", "right", "2", "left", "q")
    screen = ConsoleScreen(terminal, None, None, None, 1.0)
    screen.status = lambda: "replay"

    assert [" ", "+", "right", "left", "q"] == [screen.wait(0.01) for _ in range(5)]


def test_from_and_to(play):
    shown, _ = play((60, "q"), first=Point(10 * NS), last=Point(20 * NS))

    assert [*range(10, 20)] == seconds(shown)
