# SPDX-License-Identifier: Apache-2.0
"""The console's screens from made pictures, and what its keys do."""

import html
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tests.made_pictures import connections, events, picture, snapshot
from tracer.cli.painter import LinePrinter, frame
from tracer.cli.terminal import SEQUENCES, decode_keys
from tracer.errors import UsageError
from tracer.events.records import prefix
from tracer.events.schema import State
from tracer.state.connections import OPEN_DTYPE
from tracer.state.outcomes import Outcome
from tracer.state.snapshot import SelfUse
from tracer.views.console.charts import bars, clock_text, percentile, sparkline
from tracer.views.console.choosing import choose, parse_filter
from tracer.views.console.controls import CONNECTION_ORDERS, KEYS, PAGES, TOP_ORDERS, Controls, press
from tracer.views.console.panels import Look
from tracer.views.console.picture import Courses
from tracer.views.console.screen import plain_lines, render, screen_lines
from tracer.views.console.theme import ASCII, EMOJI, THEMES, UNICODE
from tracer.views.table import span_text

SCREENS = Path(__file__).with_name("screens")
SIZES = [(60, 15), (77, 24), (78, 24), (80, 24), (100, 30), (120, 40), (149, 50), (150, 50), (200, 60), (300, 100)]


def drawn(shown, width, height, look=None):
    return [line.plain.rstrip() for line in screen_lines(shown, width, height, look or Look(THEMES["dark"], UNICODE))]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("page", PAGES)
def test_every_page_fills_its_screen_and_no_more(page, size):
    for shown in (
        picture(page),
        picture(page, snapshot=snapshot(states={}, latency={}, ports={}, history={}, drift=None), courses={}, top={}, failures=()),
        picture(page, snapshot=snapshot(states=dict.fromkeys(snapshot().states, 999_999_999), totals={"events": 10**15})),
    ):
        lines = screen_lines(shown, *size)
        assert size[1] == len(lines)
        assert max(line.cell_len for line in lines) <= size[0]


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60)])
@pytest.mark.parametrize("page", PAGES)
def test_screens_look_as_they_did(page, size, request):
    """A changed screen is looked at, and then taken over: scripts/test tests/unit/test_console.py --new-screens."""
    file = SCREENS / f"{page}-{size[0]}x{size[1]}.txt"
    lines = drawn(picture(page), *size)
    if request.config.getoption("--new-screens"):
        file.write_text("\n".join(lines) + "\n")

    assert file.read_text().splitlines() == lines


@pytest.mark.parametrize("size", [(59, 15), (60, 14), (10, 3), (1, 1)])
def test_a_screen_that_is_too_small_gets_one_line(size):
    first, *others = drawn(picture(), *size)

    assert f"tcptrace needs 60x15, this is {size[0]}x{size[1]}"[: size[0]] == first
    assert not any(others)


def test_the_overview_says_what_is_lost_what_drifts_and_what_it_costs():
    state = snapshot(lost={"ring_full": 5}, exact=False, use=SelfUse(0.25, 61_000_000, 0.5))
    text = "\n".join(drawn(picture(snapshot=state), 120, 40))

    for part in (
        "lost 5",
        "drift 0",
        "cpu 25.0%",
        "mem 61M",
        "ring 50%",
        "~SOCKETS",
        "1,847",
        "20,611",
        "73.0%",
        "timeout",
        "php-fpm[990]",
    ):
        assert part in text


def test_alerts_come_before_everything_else():
    state = snapshot(alerts=[{"message": "[red]ports run out\x1b[2J"}])
    lines = drawn(picture(snapshot=state), 80, 24, Look(THEMES["mono"], EMOJI))

    assert "🔥 [red]ports run out?[2J" == lines[3]


@pytest.mark.parametrize(("time_wait", "in_state", "is_said"), [(None, 300_000, True), (300, 300, False), (None, 0, False)])
def test_ports_held_by_more_in_time_wait_than_can_be_read_are_said_to_be_missing(time_wait, in_state, is_said):
    before = snapshot()
    state = snapshot(ports=before.ports | {"time_wait": time_wait}, states=before.states | {"TIME_WAIT": in_state})

    assert is_said == ("without those that TIME_WAIT holds" in "\n".join(drawn(picture(snapshot=state), 120, 40)))


def test_names_cannot_colour_the_screen_or_move_its_cursor():
    console = Console(file=io.StringIO(), force_terminal=True, color_system="truecolor", width=120)
    console.print(render(picture("connections"), 120, 40))
    shown = console.file.getvalue()

    assert "?[31m[red]" in shown
    assert "\x1b[31m[red]" not in shown


def test_without_utf_8_everything_is_ascii():
    for page in PAGES:
        assert "\n".join(drawn(picture(page), 120, 40, Look(THEMES["mono"], ASCII))).isascii()


def test_no_theme_hides_anything():
    for theme in THEMES.values():
        assert drawn(picture(), 120, 40) == drawn(picture(), 120, 40, Look(theme, UNICODE))


def test_a_plain_block_is_the_overview_without_keys():
    text = "\n".join(line.plain for line in plain_lines(picture(), 80, Look(THEMES["mono"], UNICODE)))

    assert "ESTABLISHED" in text
    assert "quit" not in text


def test_pressed_keys_change_what_is_shown():
    def after(keys, controls=None):
        controls = controls or Controls()
        for key in keys:
            controls = press(controls, key)
        return controls

    assert ["overview", "connections", "events", "help", "overview"] == [PAGES[after(["tab"] * n).page] for n in range(5)]
    assert "help" == PAGES[after("?").page] == PAGES[after("h").page] == PAGES[after(["back_tab"]).page]
    assert after("p").paused
    assert not after("pp").paused
    assert after("q").quits
    assert after("t").ended
    assert [*CONNECTION_ORDERS, CONNECTION_ORDERS[0]] == [CONNECTION_ORDERS[after("2" + "s" * n).order] for n in range(8)]
    assert "rate" == TOP_ORDERS[after("s").top_order]
    assert after("2S").reverse
    assert (0.5, 2.0) == (after("+").refresh_s, after("-").refresh_s)
    assert 0.1 == after("+" * 30).refresh_s
    assert (1, 0, 20) == (after("2j").scroll, after("2jk").scroll, after(["2", "page_down"]).scroll)
    assert 1 == after("r").resets
    assert after("xyzZ") == Controls()


def test_a_filter_is_typed_kept_and_given_up():
    typing = press(Controls(), "/")
    for key in ["p", "o", "x", "backspace", "r", "t", ":", "1", "q"]:
        typing = press(typing, key)
    entered = press(typing, "enter")

    assert "port:1q" == typing.draft
    assert ("port:1q", None, "connections") == (entered.filter, entered.draft, PAGES[entered.page])
    assert "port:1q" == press(press(entered, "/"), "escape").filter
    assert "" == press(entered, "escape").filter
    assert not typing.quits


@given(st.lists(st.sampled_from([*KEYS, *SEQUENCES.values(), "a", "1", ":"]), max_size=40))
def test_no_sequence_of_keys_breaks_a_screen(keys):
    controls = Controls()
    for key in keys:
        controls = press(controls, key)
    lines = screen_lines(replace(picture(), controls=controls), 80, 24)

    assert 24 == len(lines)


@pytest.mark.parametrize(
    ("data", "keys", "rest"),
    [
        (b"q", ["q"], b""),
        (b"\x1b[A\x1bOB", ["up", "down"], b""),
        (b"\x1b[5~x", ["page_up", "x"], b""),
        (b"\x1b[", [], b"\x1b["),
        (b"\x1b", [], b"\x1b"),
        (b"\x1b[99;5~q", ["q"], b""),
        (b"\x1bq", ["escape", "q"], b""),
        ("/é€".encode(), ["/", "é", "€"], b""),
        ("é".encode()[:1], [], "é".encode()[:1]),
        (b"\xff\x00q", ["q"], b""),
        (b"\t\r\x7f\x15", ["tab", "enter", "backspace", "kill_line"], b""),
    ],
)
def test_what_a_terminal_sends_becomes_keys(data, keys, rest):
    assert (keys, rest) == decode_keys(data)


def test_only_changed_lines_are_drawn():
    assert b"\x1b[2;1Hnew\x1b[0m\x1b[K" == frame(["same", "new"], ["same", "old"])
    assert b"" == frame(["same"], ["same"])
    assert 3 == frame(["a", "b", "c"], []).count(b"\x1b[K")


def printer():
    return LinePrinter(Console(file=io.StringIO(), force_terminal=True, color_system="256", width=80, highlight=False))


def test_lines_for_a_terminal_are_complete_in_themselves():
    lines = printer().print(screen_lines(picture(), 80, 24), 80)

    assert 24 == len(lines)
    assert any("\x1b[" in line for line in lines)
    assert all(line.endswith("\x1b[0m") or "\x1b[" not in line.rpartition("\x1b[0m")[2] for line in lines)


def test_a_line_that_is_known_already_is_printed_the_same_again():
    known = printer()
    for shown in (picture(), picture("connections"), picture(), picture(snapshot=snapshot(lost={"ring_full": 1}))):
        for width in (80, 120):
            lines = screen_lines(shown, width, 24)
            assert printer().print(lines, width) == known.print(lines, width)


OPEN = prefix(connections(30).connections, OPEN_DTYPE).copy()


@pytest.mark.parametrize(
    ("text", "matching"),
    [
        ("", 30),
        ("port:443", 30),
        ("dport:50000-50014", 3),
        ("dport:50007", 1),
        ("50007", 1),
        ("comm:NGINX", 29),
        ("state:close_wait", 10),
        ("close_wait nginx", 9),
        ("pid:812", 30),
        ("812", 30),
        ("addr:203.0.", 30),
        ("saddr:203.0.", 0),
        ("113.9", 30),
        ("dir:passive", 30),
        ("dir:active", 0),
        ("nothing", 0),
        ("2001:db8", 0),
    ],
)
def test_a_filter_finds(text, matching):
    assert matching == choose(OPEN, parse_filter(text), Controls(), 10, 1).matching


@pytest.mark.parametrize("text", ["port:x", "port:0", "port:", "pid:x", "outcome:nope", "dir:up", "statee:x"])
def test_a_filter_that_makes_no_sense_is_one_clear_error(text):
    with pytest.raises(UsageError) as error:
        parse_filter(text)

    assert error.value.advice


def test_a_filter_fits_events_too():
    made = events().events
    texts = ("port:443", "50007", "syn_recv state:syn", "outcome:refused")

    assert [4, 4, 1, 0] == [int(parse_filter(text)(made).sum()) for text in texts]


def test_orders_and_scrolling_choose_what_is_seen():
    def ports(**changes):
        return choose(OPEN, parse_filter(""), replace(Controls(), **changes), 3, 1).connections["dport"].tolist()

    assert [50_203, 50_196, 50_189] == ports()  # the oldest first
    assert [50_000, 50_007, 50_014] == ports(reverse=True)
    assert [50_000, 50_007, 50_014] == ports(order=CONNECTION_ORDERS.index("remote"))
    assert [50_007, 50_014, 50_021] == ports(order=CONNECTION_ORDERS.index("remote"), scroll=1)
    assert [50_189, 50_196, 50_203] == ports(order=CONNECTION_ORDERS.index("remote"), scroll=10_000)
    for order in range(len(CONNECTION_ORDERS)):
        assert 3 == len(ports(order=order))


def test_open_connections_get_an_age():
    open_ones = np.zeros(1, dtype=OPEN_DTYPE)
    open_ones["opened_ns"], open_ones["state"] = 5, State.ESTABLISHED
    chosen = choose(open_ones, parse_filter(""), Controls(), 5, now_ns=7)

    assert (7, int(State.ESTABLISHED)) == (int(chosen.connections["closed_ns"][0]), int(chosen.connections["state"][0]))


def test_a_filter_on_outcomes_is_for_ended_connections():
    ended = connections(4).connections.copy()
    ended["outcome"][1] = Outcome.REFUSED

    assert 1 == int(parse_filter("outcome:refused")(ended).sum())
    assert 0 == int(parse_filter("outcome:refused")(np.zeros(3, dtype=OPEN_DTYPE)).sum())


def test_courses_have_one_number_a_second_and_begin_when_states_are_known():
    courses = Courses()
    for second, states in ((0, {}), (1, {"LISTEN": 1}), (1.4, {"LISTEN": 2}), (2, {"LISTEN": 5})):
        courses.add(snapshot(uptime_s=float(second), states=states))

    assert {"LISTEN": [2, 5]} == courses.by_state()


def test_bars_stand_on_their_ground_and_a_small_value_is_not_nothing():
    assert ["   #", ".  #"] == bars([1, 0, 0, 1000], 2, " .#")
    assert [] == bars([1, 2], 0)


def test_a_sparkline_has_the_largest_of_what_shares_a_column():
    assert ".#" == sparkline([1, 1, 0, 8], 2, " .#")
    assert "" == sparkline([], 5)
    assert ".#." == sparkline([1, 9, 1, 1, 0], 3, " .#")


@pytest.mark.parametrize(("percent", "value"), [(50, 5), (90, 9), (99, 10), (0, 1), (100, 10)])
def test_percentiles_are_values_that_occur(percent, value):
    assert value == percentile([10, 9, 8, 7, 6, 5, 4, 3, 2, 1], percent)
    assert 0 == percentile([], percent)


@pytest.mark.parametrize(
    ("us", "text"),
    [
        (None, "-"),
        (0, "0us"),
        (999, "999us"),
        (1250, "1.25ms"),
        (340_000, "340ms"),
        (2_500_000, "2.5s"),
        (7.2e8, "12m"),
        (1.1e10, "3.06h"),
        (1e12, "11.6d"),
    ],
)
def test_spans_fit_into_six_columns(us, text):
    assert text == span_text(us)


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.9, "0:59"), (3599, "59:59"), (3723, "1:02:03")])
def test_durations_are_read_like_clocks(seconds, text):
    assert text == clock_text(seconds)


SCREENSHOTS = Path(__file__).resolve().parents[2] / "scripts/screenshots"


@pytest.mark.parametrize("page", ["overview", "connections"])
def test_the_screenshots_of_the_readme_are_up_to_date(page):
    """If not: .venv/bin/python scripts/screenshots/draw.py."""
    texts = re.findall(r"<text[^>]*>(.*?)</text>", (SCREENSHOTS / f"{page}.svg").read_text())
    shown = "".join(html.unescape(text) for text in texts).replace("\u00a0", "").replace(" ", "")

    for line in drawn(picture(page), 120, 32):
        assert line.replace(" ", "") in shown
