# SPDX-License-Identifier: Apache-2.0
"""The live state as a whole: batches, samples and counters in, pictures out."""

from dataclasses import dataclass, field, replace

import msgspec
import numpy as np
import pytest

from tests.unit.test_connections import CLIENT, SERVER, S, batch, life
from tests.unit.test_healing import sockets
from tracer.events.batch import EventBatch
from tracer.events.filters import CaptureFilter
from tracer.events.schema import no_events
from tracer.reconcile.rules import COUNTER_RULES, KNOWN_DIFFERENCES
from tracer.state.drift import CounterDrift, CounterRule, Noted, note
from tracer.state.journal import MAX_AGE_NS, Journal
from tracer.state.latency import LatencyHistograms
from tracer.state.live import LiveState, Subject
from tracer.state.samples import NamespaceSample, PortRange, Reading, Reconciliation, SocketDump
from tracer.state.snapshot import SelfUse, to_json
from tracer.state.survey import port_usage, top_lists
from tracer.state.waiting import Holders

MS = 1_000_000
USE = SelfUse(0.1, 2, 0.3)
HOME = 99


@dataclass
class Totals:
    """Counters as of a moment."""

    transitions: np.ndarray = field(default_factory=lambda: np.zeros((2, 16, 16), dtype=np.uint64))
    accepts: np.ndarray = field(default_factory=lambda: np.zeros(2, dtype=np.uint64))
    retransmits: np.ndarray = field(default_factory=lambda: np.array([3, 1], dtype=np.uint64))
    resets_sent: np.ndarray = field(default_factory=lambda: np.array([5, 0], dtype=np.uint64))
    resets_received: np.ndarray = field(default_factory=lambda: np.array([7, 0], dtype=np.uint64))
    filtered: int = 0
    other_protocols: int = 2


def totals_of(*lives):
    totals = Totals()
    for event in np.concatenate(lives):
        totals.transitions[0, event["old_state"], event["new_state"]] += event["kind"] == 1
    return totals


def reading(ts_ns, totals=None):
    return Reading(ts_ns, ts_ns + 1, (totals or Totals()).transitions[0].astype(np.int64))


def sample(ts_ns, theirs=None, totals=None, **fields):
    first = reading(ts_ns, totals)
    dump = SocketDump((first, reading(ts_ns + 10, totals)), theirs, 2, 1, "sock_diag") if theirs is not None else None
    told = {"sockstat": {"TCP": {"inuse": 0 if theirs is None else len(theirs), "tw": 5}}, "ports": PortRange(40_000, 40_099)}
    return Reconciliation(first, reading(ts_ns + 5, totals), dump=dump, **(told | fields))


def state(**fields):
    subject = Subject("host", "6.18", {"state": "raw_tracepoint", "accept": "syscall"}, HOME, 0, **fields)
    return LiveState(subject, COUNTER_RULES, KNOWN_DIFFERENCES)


def quiet(ts_ns):
    return EventBatch(no_events(), ts_ns, 0)


def run():
    """A connection from before the start, one that comes and stays, and one that comes and ends."""
    live = state()
    live.fold(quiet(50 * MS))
    live.reconcile(sample(20 * MS, sockets(40_001, tgid=8, comm=b"prog")))
    lives = life(CLIENT[:2], sock=0x10, sport=40_002, start=60 * MS), life(SERVER, sock=0x20, sport=80, dport=41_000, start=61 * MS)
    live.fold(batch(*lives))
    return live, totals_of(*lives)


def test_gauges_are_what_was_open_before_and_what_the_counters_say():
    live, totals = run()
    picture = live.take(totals, USE)

    assert {"ESTABLISHED": 2, "SYN_RECV": 2, "FIN_WAIT2": 1, "TIME_WAIT": 4} == {n: c for n, c in picture.states.items() if c}
    assert {"SYN_RECV": 2, "FIN_WAIT2": 1, "TIME_WAIT": 4} == picture.mini_sockets
    assert picture.exact
    assert ({"total": 4, "per_second": 0}, 5, 7) == (picture.retransmits, picture.resets["sent"], picture.resets["received"])


def test_a_picture_has_every_field_of_the_snapshot_object():
    live, totals = run()
    fields = msgspec.json.decode(to_json(live.take(totals, USE)))

    wanted = "time states rates totals retransmits resets ports top latency sockstat drift lost patterns alerts self"
    assert set() == set(wanted.split()) - set(fields)
    assert {"processes", "local_ports", "remote_addresses"} == set(fields["top"])
    assert {"range", "available", "used", "usage_ratio", "time_wait", "by_destination"} == set(fields["ports"])
    assert {"handshake", "accept_wait", "lifetime"} == set(fields["latency"])


def test_the_same_input_gives_the_same_picture_to_the_byte():
    first, second = (to_json(live.take(totals, USE)) for live, totals in (run(), run()))

    assert first == second
    assert '"ESTABLISHED":2' in first


def test_before_the_first_look_there_are_no_states_and_no_drift():
    live = state()
    live.fold(quiet(50 * MS))
    picture = live.take(Totals(), USE)

    assert ({}, {}, None, False) == (picture.states, picture.mini_sockets, picture.drift, picture.exact)


def test_what_the_kernel_has_besides_is_drift_and_then_healed():
    live, totals = run()
    live.fold(quiet(200 * MS))
    live.reconcile(sample(150 * MS, sockets(40_001, 40_002, 40_003), totals))
    suspected = live.take(totals, USE).drift
    for look_ms in (200, 250):
        live.fold(quiet((look_ms + 50) * MS))
        live.reconcile(sample(look_ms * MS, sockets(40_001, 40_002, 40_003), totals))
    drift = live.take(totals, USE).drift

    assert (0, 1) == (suspected.states["ESTABLISHED"]["drift"], suspected.table.missing_added)
    assert {"ours": 2, "kernel": 3, "drift": -1} == drift.states["ESTABLISHED"]
    assert (1, 1, 0) == (drift.healed, drift.table.missing_added, drift.table.ghosts_removed)
    live.fold(quiet(400 * MS))
    live.reconcile(sample(350 * MS, sockets(40_001, 40_002, 40_003), totals))
    again = live.take(totals, USE)
    assert (0, 3, 3) == (again.drift.total, again.states["ESTABLISHED"], again.drift.table.ours)


def test_sockets_that_sockstat_counts_and_nobody_sees_are_drift():
    live, totals = run()
    live.fold(quiet(200 * MS))
    live.reconcile(sample(150 * MS, totals=totals, sockstat={"TCP": {"inuse": 5}}))

    assert {"ours": 2, "kernel": 5, "drift": -3} == live.take(totals, USE).drift.sockets


@pytest.mark.parametrize("sockstat", [{}, {"TCP": {"novel": 1}}])
def test_what_sockstat_does_not_tell_is_null(sockstat):
    live = state()
    live.fold(quiet(50 * MS))
    live.reconcile(sample(20 * MS, sockets(40_001), sockstat=sockstat))
    picture = live.take(Totals(), USE)

    assert (None, None) == (picture.states["TIME_WAIT"], picture.drift.sockets)
    assert sockstat == picture.sockstat


def test_under_a_filter_only_what_it_keeps_is_in_the_table_and_the_gauges_have_all():
    live = state(keep=CaptureFilter(lports=((40_001, 40_001),)))
    live.fold(quiet(50 * MS))
    live.reconcile(sample(20 * MS, sockets(40_001, 40_002)))
    picture = live.take(Totals(), USE)

    assert (1, 2, 0) == (picture.totals["connections"], picture.states["ESTABLISHED"], picture.drift.total)


def test_another_namespace_has_its_own_row():
    live = state()
    live.fold(quiet(50 * MS))
    elsewhere = sockets(5_000, 5_001, state=S.CLOSE_WAIT)
    elsewhere["netns"] = 7
    live.reconcile(sample(20 * MS, sockets(40_001), namespaces={7: NamespaceSample("blue", elsewhere, 20 * MS), 8: NamespaceSample("8")}))
    rows = live.take(Totals(), USE).namespaces

    assert {"netns": 7, "name": "blue", "states": {"CLOSE_WAIT": 2}, "kernel": {"CLOSE_WAIT": 2}} == rows[0]
    assert {"netns": 8, "name": "8", "states": {}, "kernel": None} == rows[1]


COUNTING = (
    CounterRule("Equal", lambda r, _: r.accepts, "", ""),
    CounterRule("More", lambda r, _: r.retransmits, "", "", may_exceed=True),
    CounterRule("Noted", lambda _, n: n.failed, "", "", by_events=True),
    CounterRule("Theirs", None, "", ""),
)


def counted(drift, kernel, ours, lossy=False, between=0, failed=0):
    def at(count):
        return replace(reading(1), accepts=count, retransmits=count)

    snmp = {"Equal": kernel, "More": kernel, "Noted": kernel, "Theirs": kernel}
    noted = Noted(failed=failed)
    return drift.observe(Reconciliation(at(ours - between), at(ours), snmp=snmp), noted, noted, lossy)


def test_counters_that_grow_alike_have_no_drift_whatever_was_before():
    drift = CounterDrift(COUNTING, sees_all=True)
    assert 0 == counted(drift, 1_000, 0)
    assert 0 == counted(drift, 1_010, 10, failed=10)

    assert {"ours": 10, "kernel": 10, "drift": 0} == drift.rows["Equal"]
    assert {"ours": None, "kernel": 10, "drift": None} == drift.rows["Theirs"]


def test_a_counter_that_the_kernel_has_more_of_is_drift_unless_it_may_have():
    drift = CounterDrift(COUNTING[:2], sees_all=True)
    counted(drift, 1_000, 0)

    assert 3 == counted(drift, 1_013, 10)
    assert ({"ours": 10, "kernel": 13, "drift": -3}, {"ours": 10, "kernel": 13, "drift": 0}) == (drift.rows["Equal"], drift.rows["More"])
    assert 0 == counted(drift, 1_014, 11)
    assert 2 * 4 == counted(drift, 1_014, 15)
    assert 4 == drift.rows["More"]["drift"]


def test_a_counter_that_moves_while_it_is_read_is_known_within_bounds():
    drift = CounterDrift(COUNTING[:1], sees_all=True)
    counted(drift, 1_000, 10, between=4)

    assert 0 == counted(drift, 1_100, 108, between=2)
    assert 0 == counted(drift, 1_200, 206, between=0)
    assert 1 == abs(counted(drift, 1_201, 206))


def test_what_depends_on_events_may_fall_behind_after_a_loss_and_is_unknown_under_a_filter():
    lossy, filtered = CounterDrift(COUNTING[2:3], sees_all=True), CounterDrift(COUNTING[2:3], sees_all=False)
    counted(lossy, 1_000, 0, lossy=True)

    assert 0 == counted(lossy, 1_010, 0, lossy=True, failed=2)
    assert 0 == counted(filtered, 1_000, 0)
    assert {"ours": None, "kernel": 0, "drift": None} == filtered.rows["Noted"]


def test_events_tell_of_connects_that_found_no_port_and_that_failed():
    failures = [life([CLIENT[0], (S.SYN_SENT, S.CLOSE)], sport=port, error=error) for port, error in ((0, 0), (9, 111), (9, 0))]

    assert Noted(no_ports=1, failed=1) == note(np.concatenate([*failures, life(CLIENT), life(SERVER)]))


def test_a_journal_tells_what_is_missing_in_it():
    journal = Journal(max_events=10)
    assert not journal.whole_since(0)
    for i in range(8):
        journal.fold(batch(life(CLIENT[:2], start=1_000 + i * 10_000)))

    assert len(journal.since(0)) <= 10
    assert not journal.whole_since(1_000)
    assert journal.whole_since(70_000)
    assert [71_000, 72_000] == journal.since(70_500)["ts_ns"].tolist()
    journal.fold(EventBatch(no_events(), 90_000, 0, {"ring_full": 1}))
    assert not journal.whole_since(80_000)
    assert journal.whole_since(90_000)
    journal.fold(EventBatch(no_events(), 91_000 + MAX_AGE_NS, 0))
    assert 0 == len(journal.since(0))


def open_ends(*lives):
    from tracer.state.connections import ConnectionTable

    table = ConnectionTable()
    ended = table.fold(batch(*lives))
    return table.open_connections(), ended


def test_latencies_are_counted_once_whether_a_connection_is_open_or_has_ended():
    histograms = LatencyHistograms()
    histograms.advance(1)
    first, _ = open_ends(life(CLIENT[:2], sock=0x10, start=1_000_000, step_ns=300_000))
    histograms.fold(first, ended=False)
    histograms.added_until(1_300_000)
    _, ended = open_ends(
        life(CLIENT, sock=0x10, start=1_000_000, step_ns=300_000), life(SERVER, sock=0x20, start=2_000_000, step_ns=50_000)
    )
    histograms.fold(ended, ended=True)
    found = histograms.percentiles()

    assert (1, 1, 2) == tuple(found[name]["count"] for name in ("handshake", "accept_wait", "lifetime"))
    assert found["handshake"]["p50_us"] == pytest.approx(300, rel=0.03)
    assert found["accept_wait"]["p99_us"] == pytest.approx(50, rel=0.03)
    assert found["lifetime"]["p99_us"] == pytest.approx(1_200, rel=0.03)


def test_latencies_leave_after_a_minute():
    histograms = LatencyHistograms()
    histograms.advance(5 * 10**9)
    _, ended = open_ends(life(CLIENT))
    histograms.fold(ended, ended=True)
    histograms.advance(59 * 10**9)
    assert 1 == histograms.percentiles()["lifetime"]["count"]

    histograms.advance(61 * 10**9)
    assert {"count": 0, "p50_us": None, "p90_us": None, "p99_us": None} == histograms.percentiles()["lifetime"]


def test_top_lists_have_the_largest_first_and_unknown_owners_are_none():
    many = [life(CLIENT[:2], sock=i + 1, sport=40_000 + i, tgid=70 if i % 3 else 71, comm=b"p%d" % (i % 3)) for i in range(9)]
    unowned = life([CLIENT[1]], sock=0x99, sport=40_099)
    connections, _ = open_ends(*many, unowned)
    top = top_lists(connections)

    assert [(70, 6), (71, 3)] == [(p["pid"], p["open"]) for p in top["processes"]]
    assert [{"address": "10.0.0.2", "open": 10}] == top["remote_addresses"]
    assert 10 == len(top["local_ports"])


def test_ports_are_used_by_destination_and_not_by_accepted_connections():
    ours = [life(CLIENT[:2], sock=i + 1, sport=40_000 + i, dport=443 if i < 3 else 80) for i in range(4)]
    same_port = life(CLIENT[:2], sock=0x50, sport=40_000, dport=80)
    accepted = life(SERVER[:3], sock=0x60, sport=40_009, dport=50_000)
    outside = life(CLIENT[:2], sock=0x70, sport=30_000, dport=443)
    connections, _ = open_ends(*ours, same_port, accepted, outside)
    usage = port_usage(connections, PortRange(40_000, 40_009, 2))

    assert (8, 4, 0.5) == (usage["available"], usage["used"], usage["usage_ratio"])
    assert [(443, 3, 0.375), (80, 2, 0.25)] == [(d["port"], d["used"], d["usage_ratio"]) for d in usage["by_destination"]]


def time_wait_of(total, holding):
    holders = Holders()
    holders.add(total, holding["sport"], holding["dport"], holding["daddr"])
    return holders.time_wait()


def test_where_the_port_range_is_not_known_its_use_is_not_either():
    usage = port_usage(open_ends(life(CLIENT[:2]))[0], None, time_wait_of(2, sockets(1, 2)))

    assert (None, None, None, None, 2, []) == tuple(usage.values())


def test_time_wait_holds_its_port():
    connections, _ = open_ends(life(CLIENT[:2], sport=40_001, dport=80))
    usage = port_usage(connections, PortRange(40_000, 40_009), time_wait_of(3, sockets(40_001, 40_002)))

    assert (2, 3, 0.2) == (usage["used"], usage["time_wait"], usage["usage_ratio"])
    assert [("10.0.0.2", 80, 3)] == [(d["address"], d["port"], d["used"]) for d in usage["by_destination"]]
