# SPDX-License-Identifier: Apache-2.0
"""Events and pictures as text: what stands in them, and that they fit."""

import csv
import io
import json

import numpy as np
import pytest
from rich.console import Console

from tracer.events.addresses import address_text, endpoint_text, short_endpoint_text
from tracer.events.batch import EventBatch
from tracer.events.schema import EVENT_DTYPE, Flag, Kind, State
from tracer.state.snapshot import SelfUse, Snapshot
from tracer.state.sockets import SocketTable
from tracer.views.columns import EVENT_NAMES, Rows
from tracer.views.connection_table import size_text
from tracer.views.connections import CONNECTION_NAMES
from tracer.views.console import ASCII_BLOCKS, bars, duration, render
from tracer.views.table import EventTable
from tracer.views.writers import LineWriter, TableWriter

LONG = b"\x20\x01\x0d\xb8\x11\x11\x22\x22\x33\x33\x44\x44\x55\x55\x66\x66"


@pytest.fixture
def batch():
    """A SYN_SENT whose owner is known and a RST on an IPv6 socket whose owner is not."""
    events = np.zeros(2, dtype=EVENT_DTYPE)
    events["ts_ns"], events["sock"], events["netns"] = [1_000_000_001, 1_000_500_002], [0xFFFF0001, 0xFFFF0002], 4026531840
    events["kind"], events["dport"], events["family"] = Kind.STATE, [443, 8443], [4, 6]
    events["saddr"] = [b"\0" * 10 + b"\xff\xff\x0a\0\0\x01", LONG]
    events["daddr"] = [b"\0" * 10 + b"\xff\xff\x0a\0\0\x02", LONG]
    events["sport"] = [0, 50_123]
    events["old_state"], events["new_state"] = [State.CLOSE, State.ESTABLISHED], [State.SYN_SENT, State.CLOSE]
    events["error"] = [0, 104]
    events[0]["flags"], events[0]["tgid"], events[0]["uid"], events[0]["comm"] = Flag.HAS_OWNER, 4711, 1000, b"\x1b[31mred"
    return EventBatch(events, 2_000_000_000, 1_600_000_000_000_000_000, {"ring_full": 7})


@pytest.fixture
def rows(batch):
    return Rows.of(batch, SocketTable().fold(batch))


def test_the_event_object_has_the_promised_keys_and_says_null_for_what_is_not_known(rows, batch):
    out = io.BytesIO()
    writer = LineWriter(out, "json")
    writer.write(rows)
    writer.lost(batch)
    owned, unowned, lost = map(json.loads, out.getvalue().splitlines())

    promised = [
        "time",
        "ts_ns",
        "kind",
        "old",
        "new",
        "family",
        "saddr",
        "sport",
        "daddr",
        "dport",
        "pid",
        "comm",
        "uid",
        "pid_source",
        "netns",
        "cgroup",
        "sock",
        "in_state_us",
        "error",
    ]
    assert [*promised, "lost", "backlog", "backlog_max"] == list(owned)
    assert ("2020-09-13T12:26:41.000000001Z", "CLOSE", "SYN_SENT", "10.0.0.1", 443) == tuple(
        owned[k] for k in ("time", "old", "new", "saddr", "dport")
    )
    assert (4711, 1000, "context", None) == tuple(owned[k] for k in ("pid", "uid", "pid_source", "error"))
    assert (None, None, None, "ECONNRESET", None) == tuple(unowned[k] for k in ("pid", "comm", "pid_source", "error", "in_state_us"))
    assert ("lost", 7, "ring_full", None) == tuple(lost[k] for k in ("kind", "lost", "error", "pid"))


def test_the_connection_object_has_the_promised_keys():
    promised = """opened closed direction family saddr sport daddr dport pid comm uid pid_source netns cgroup container duration_ms
        handshake_us accept_wait_us bytes_sent bytes_received retransmits srtt_us outcome error complete"""

    assert promised.split() == list(CONNECTION_NAMES)


def test_csv_has_a_heading_and_reads_back(rows, batch):
    out = io.BytesIO()
    writer = LineWriter(out, "csv")
    writer.begin()
    writer.write(rows)
    writer.lost(batch)
    heading, owned, unowned, lost = csv.reader(io.StringIO(out.getvalue().decode()))

    assert list(EVENT_NAMES) == heading
    assert ("4711", "", "7") == (owned[heading.index("pid")], unowned[heading.index("pid")], lost[heading.index("lost")])


@pytest.mark.parametrize("width", [1, 20, 40, 41, 60, 79, 80, 100, 132, 200])
def test_no_line_of_a_table_is_wider_than_asked_for(rows, width):
    table = EventTable(width)
    lines = [table.heading(), *(line.rstrip("\n") for line in table.lines(rows))]

    assert max(map(len, lines)) <= width


def test_a_table_of_80_columns_tells_who_where_and_what(rows):
    table = EventTable(80)
    first, second = table.lines(rows)

    assert ["PID", "COMM", "LOCAL", "REMOTE", "OLD>NEW"] == table.heading().split()
    assert ["4711", "?[31mred", "10.0.0.1:0", "10.0.0.2:443", "CLOSE>SYN_SENT"] == first.split()
    assert ["-", "-", "[2001:db~55:6666]:50123", "[2001:db8~55:6666]:8443", "ESTAB>CLOSE"][0:2] == second.split()[0:2]
    assert ":8443" in second
    assert "ESTAB>CLOSE" in second


def test_what_is_least_needed_goes_first():
    headings = [EventTable(width).heading().split() for width in (200, 80, 71, 60, 45)]

    assert ["TIME", "PID", "COMM", "LOCAL", "REMOTE", "OLD>NEW", "MS", "ERROR"] == headings[0]
    assert [["PID", "LOCAL", "REMOTE", "OLD>NEW"], ["REMOTE", "OLD>NEW"]] == [headings[2], headings[4]]
    assert "TIME" in EventTable(80, with_time=True).heading().split()


def test_a_loss_stands_in_the_table(batch):
    out = io.BytesIO()
    TableWriter(out, EventTable()).lost(batch)

    assert b"-- lost 7 events (ring_full 7): what follows is incomplete\n" == out.getvalue()


def test_addresses_have_their_usual_short_form():
    assert ("10.0.0.1", "::1") == (address_text(b"\0" * 10 + b"\xff\xff\x0a\0\0\x01"), address_text(b"\0" * 15 + b"\x01"))
    assert ("10.0.0.1:80", "[::1]:80") == (endpoint_text("10.0.0.1", 80), endpoint_text("::1", 80))


@pytest.mark.parametrize("width", range(14, 60))
def test_a_shortened_endpoint_fits_and_keeps_its_port(width):
    short = short_endpoint_text(address_text(LONG), 50_123, width)

    assert len(short) <= width
    assert short.endswith("]:50123")


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (999, "999"), (1000, "1.0K"), (99_949, "99.9K"), (99_950, "100K"), (999_499, "999K"), (999_500, "1.0M"), (2**40, "1.1T")],
)
def test_sizes_fit_into_five_columns(count, text):
    assert text == size_text(count)


def picture(**changes):
    rates = dict.fromkeys(("events", "opened", "accepted", "established", "closed", "failed"), 3)
    fields = {
        "time": "2026-01-01T00:00:00Z",
        "host": "a-host-with-a-long-name",
        "kernel": "6.18.0",
        "hooks": {"state": "raw_tracepoint", "accept": "syscall"},
        "uptime_s": 3723.0,
        "states": {"ESTABLISHED": 1_234_567, "TIME_WAIT": None},
        "exact": False,
        "rates": rates,
        "history": {name: list(range(180)) for name in rates},
        "totals": {"events": 123_456_789},
        "lost": {"ring_full": 5},
        "use": SelfUse(0.011, 45_000_000, 0.2),
    }
    return Snapshot(**fields | changes)


def drawn(snapshot, width, height, blocks=ASCII_BLOCKS):
    console = Console(file=io.StringIO(), width=width, height=height, color_system=None)
    console.print(render(snapshot, width, height, blocks))
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("size", [(40, 20), (63, 24), (64, 24), (80, 24), (120, 40), (200, 60)])
@pytest.mark.parametrize(
    "changes",
    [{}, {"states": {}}, {"history": {n: [0] * 180 for n in ("events", "opened", "accepted", "established", "closed", "failed")}}],
)
def test_a_picture_fits_its_screen(size, changes):
    lines = drawn(picture(**changes), *size)

    assert max(map(len, lines)) <= size[0]
    assert len(lines) <= size[1]


def test_a_screen_that_is_too_small_gets_one_line():
    assert ["tcptrace needs 40x12, this is 39x10"] == drawn(picture(), 39, 10)


def test_a_picture_says_what_is_lost_and_what_is_not_known():
    text = "\n".join(drawn(picture(), 120, 40))

    assert "lost 5" in text
    assert "states approximate" in text
    assert "1,234,567" in text
    assert "TIME_WAIT            -" in text


def test_bars_stand_on_their_ground_and_a_small_value_is_not_nothing():
    assert ["   #", ".  #"] == bars([1, 0, 0, 1000], 2, " .#")


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.9, "0:59"), (3723, "1:02:03")])
def test_durations_are_read_like_clocks(seconds, text):
    assert text == duration(seconds)
