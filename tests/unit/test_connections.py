# SPDX-License-Identifier: Apache-2.0
import errno

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracer.events.batch import EventBatch
from tracer.events.schema import EVENT_DTYPE, Flag, Kind, State
from tracer.state.connections import ConnectionTable
from tracer.state.outcomes import Direction, Outcome
from tracer.state.sockets import PidSource

S = State
CLIENT = [
    (S.CLOSE, S.SYN_SENT),
    (S.SYN_SENT, S.ESTABLISHED),
    (S.ESTABLISHED, S.FIN_WAIT1),
    (S.FIN_WAIT1, S.FIN_WAIT2),
    (S.FIN_WAIT2, S.CLOSE),
]
SERVER = [
    (S.LISTEN, S.SYN_RECV),
    (S.SYN_RECV, S.ESTABLISHED),
    "accept",
    (S.ESTABLISHED, S.CLOSE_WAIT),
    (S.CLOSE_WAIT, S.LAST_ACK),
    (S.LAST_ACK, S.CLOSE),
]
OWNED = {(S.CLOSE, S.SYN_SENT), (S.ESTABLISHED, S.FIN_WAIT1), (S.CLOSE_WAIT, S.LAST_ACK)}


def address(last: int) -> np.void:
    return np.frombuffer(b"\0" * 10 + b"\xff\xff\x0a\0\0" + bytes([last]), dtype="V16")[0]


def life(steps, sock=0x10, sport=40_001, dport=80, tgid=77, uid=5, comm=b"prog", start=1_000, step_ns=1_000, error=0, sent=0, received=0):
    """The events of one socket, one microsecond apart."""
    events = np.zeros(len(steps), dtype=EVENT_DTYPE)
    for i, step in enumerate(steps):
        event = events[i]
        event["ts_ns"], event["sock"], event["netns"], event["family"] = start + i * step_ns, sock, 99, 4
        event["saddr"], event["daddr"] = address(1), address(2)
        event["sport"] = 0 if step == (S.CLOSE, S.SYN_SENT) else sport
        event["dport"] = dport
        if isinstance(step, str):
            event["kind"] = Kind[step.upper()]
        else:
            event["kind"], event["old_state"], event["new_state"] = Kind.STATE, *step
        if step == "accept" or step in OWNED:
            event["flags"], event["tgid"], event["uid"], event["comm"], event["cgroup"] = Flag.HAS_OWNER, tgid, uid, comm, 31
    last = events[-1]
    if last["new_state"] == S.CLOSE:
        last["error"], last["bytes_sent"], last["bytes_received"], last["segs_retrans"], last["srtt_us"] = error, sent, received, 3, 250
    return events


def batch(*parts, lost=None):
    events = np.concatenate(parts)
    events = events[np.argsort(events["ts_ns"], kind="stable")]
    return EventBatch(events, int(events["ts_ns"].max(initial=0)), 0, lost or {})


def only(connections):
    assert 1 == len(connections)
    return connections[0]


def test_an_active_connection_within_one_batch_is_whole():
    ended = only(ConnectionTable().fold(batch(life(CLIENT, sent=101, received=7))))

    assert (1_000, 2_000, 0, 5_000) == tuple(ended[n] for n in ("opened_ns", "established_ns", "accepted_ns", "closed_ns"))
    assert (Direction.ACTIVE, 40_001, 80, 4, 99) == tuple(ended[n] for n in ("direction", "sport", "dport", "family", "netns"))
    assert (77, 5, b"prog", 31, PidSource.CONTEXT) == tuple(ended[n] for n in ("tgid", "uid", "comm", "cgroup", "pid_source"))
    assert (100, 7, 3, 250) == tuple(ended[n] for n in ("bytes_sent", "bytes_received", "segs_retrans", "srtt_us"))
    assert (Outcome.CLOSED_LOCAL, 0) == (ended["outcome"], ended["incomplete"])


def test_a_passive_connection_belongs_to_the_task_that_accepted_it():
    ended = only(ConnectionTable().fold(batch(life(SERVER, sent=101))))

    assert (Direction.PASSIVE, 3_000, PidSource.ACCEPT, 77) == tuple(ended[n] for n in ("direction", "accepted_ns", "pid_source", "tgid"))
    assert (101, Outcome.CLOSED_REMOTE) == (ended["bytes_sent"], ended["outcome"])


def test_the_opener_owns_a_connection_that_another_process_closes():
    events = life(CLIENT)
    events["tgid"][2] = 88

    assert 77 == only(ConnectionTable().fold(batch(events)))["tgid"]


def test_a_life_that_crosses_batches_is_the_same_as_within_one():
    whole = ConnectionTable().fold(batch(life(CLIENT, sent=9)))
    table = ConnectionTable()
    parts = [table.fold(batch(life(CLIENT, sent=9)[i : i + 1])) for i in range(5)]

    assert [0, 0, 0, 0, 1] == [len(part) for part in parts]
    assert whole.tolist() == parts[-1].tolist()
    assert 0 == len(table)


def test_the_kernel_reusing_an_address_makes_two_connections():
    first = life(CLIENT, sock=0x20, sport=40_001, tgid=1)
    second = life(SERVER, sock=0x20, sport=90, dport=41_000, tgid=2, start=50_000)
    ended = ConnectionTable().fold(batch(first, second))

    assert [(1, 40_001, Direction.ACTIVE), (2, 90, Direction.PASSIVE)] == [(c["tgid"], c["sport"], c["direction"]) for c in ended]


def test_a_listener_is_no_connection():
    table = ConnectionTable()

    assert 0 == len(table.fold(batch(life([(S.CLOSE, S.LISTEN)], dport=0))))
    assert 0 == len(table)
    assert 0 == len(table.fold(batch(life([(S.LISTEN, S.CLOSE)], dport=0, start=9_000))))


def test_a_connection_whose_birth_was_before_is_incomplete():
    ended = only(ConnectionTable().fold(batch(life(CLIENT[2:]))))

    assert (0, Direction.UNKNOWN, 1) == (ended["opened_ns"], ended["direction"], ended["incomplete"])


def test_a_self_transition_changes_nothing_but_the_time():
    steps = [*CLIENT[:3], (S.FIN_WAIT1, S.FIN_WAIT1), *CLIENT[3:]]

    assert (6_000, Outcome.CLOSED_LOCAL) == tuple(only(ConnectionTable().fold(batch(life(steps))))[n] for n in ("closed_ns", "outcome"))


def test_a_simultaneous_open_is_one_active_connection():
    steps = [(S.CLOSE, S.SYN_SENT), (S.SYN_SENT, S.SYN_RECV), (S.SYN_RECV, S.ESTABLISHED), *CLIENT[2:]]
    ended = only(ConnectionTable().fold(batch(life(steps))))

    assert (Direction.ACTIVE, 3_000) == (ended["direction"], ended["established_ns"])


END = [
    ("simultaneous close", [*CLIENT[:3], (S.FIN_WAIT1, S.CLOSING), (S.CLOSING, S.CLOSE)], 0, Outcome.CLOSED_LOCAL),
    ("refused", [CLIENT[0], (S.SYN_SENT, S.CLOSE)], errno.ECONNREFUSED, Outcome.REFUSED),
    ("unanswered", [CLIENT[0], (S.SYN_SENT, S.CLOSE)], errno.ETIMEDOUT, Outcome.TIMEOUT),
    ("no route", [CLIENT[0], (S.SYN_SENT, S.CLOSE)], errno.ENETUNREACH, Outcome.UNREACHABLE),
    ("given up", [CLIENT[0], (S.SYN_SENT, S.CLOSE)], 0, Outcome.CANCELLED),
    ("reset by peer", [*CLIENT[:2], (S.ESTABLISHED, S.CLOSE)], errno.ECONNRESET, Outcome.RESET_RECEIVED),
    ("reset after its FIN", [*SERVER[:4], (S.CLOSE_WAIT, S.CLOSE)], errno.EPIPE, Outcome.RESET_RECEIVED),
    ("closed with data unread", [*CLIENT[:2], (S.ESTABLISHED, S.CLOSE)], 0, Outcome.RESET_SENT),
    ("peer fell silent", [*CLIENT[:2], (S.ESTABLISHED, S.CLOSE)], errno.ETIMEDOUT, Outcome.TIMEOUT),
    ("destroyed", [*CLIENT[:2], (S.ESTABLISHED, S.CLOSE)], errno.ECONNABORTED, Outcome.ERROR),
    ("listener gone", [*SERVER[:2], (S.ESTABLISHED, S.CLOSE)], 0, Outcome.ABORTED_IN_QUEUE),
    ("accepted, then aborted", [*SERVER[:3], (S.ESTABLISHED, S.CLOSE)], 0, Outcome.RESET_SENT),
    ("reset for late data", [*CLIENT[:4], "reset_sent", (S.FIN_WAIT2, S.CLOSE)], 0, Outcome.RESET_SENT),
]


@pytest.mark.parametrize(("steps", "error", "expected"), [case[1:] for case in END], ids=[case[0] for case in END])
def test_the_end_of_a_connection_has_its_reason(steps, error, expected):
    assert expected.name == Outcome(only(ConnectionTable().fold(batch(life(steps, error=error))))["outcome"]).name


def test_a_connect_without_a_port_in_its_own_context_is_out_of_ports():
    events = life([CLIENT[0], (S.SYN_SENT, S.CLOSE)], sport=0)
    events["flags"][1] |= Flag.HAS_OWNER

    assert Outcome.NO_PORTS == only(ConnectionTable().fold(batch(events)))["outcome"]


def test_without_an_accept_hook_nothing_is_called_aborted_in_the_queue():
    steps = [*SERVER[:2], (S.ESTABLISHED, S.CLOSE)]

    assert Outcome.RESET_SENT == only(ConnectionTable(sees_accepts=False).fold(batch(life(steps))))["outcome"]


def test_after_a_loss_all_that_is_open_is_incomplete():
    table = ConnectionTable()
    table.fold(batch(life(CLIENT[:2], sock=0x10)))
    ended = table.fold(batch(life(CLIENT[2:], sock=0x10, start=9_000), lost={"ring_full": 1}))

    assert (1, 1_000) == (only(ended)["incomplete"], only(ended)["opened_ns"])


def test_after_a_loss_a_socket_with_another_port_is_another_connection():
    """Its end and the birth of the next one are missing: the owner of the first must not become that of the second."""
    table = ConnectionTable()
    table.fold(batch(life(CLIENT[:2], sport=40_001, tgid=1)))
    ended = only(table.fold(batch(life(CLIENT[4:], sport=40_002, start=9_000), lost={"ring_full": 7})))

    assert (40_002, 0, 0, PidSource.NONE) == tuple(ended[n] for n in ("sport", "opened_ns", "tgid", "pid_source"))


def test_after_a_loss_two_lives_in_one_batch_are_told_apart_by_their_ports():
    first = life(CLIENT[:3], sport=40_001, tgid=1)
    second = life(CLIENT[3:], sport=40_002, tgid=2, start=9_000)
    ended = only(ConnectionTable().fold(batch(first, second, lost={"ring_full": 2})))

    assert (40_002, 0, 0) == tuple(ended[n] for n in ("sport", "tgid", "opened_ns"))


def test_a_ghost_of_a_loss_is_given_up_when_it_is_silent_for_long():
    table = ConnectionTable(patience_s=10)
    table.fold(batch(life(CLIENT[:2], sock=0x10), life(CLIENT[:2], sock=0x20), lost={"ring_full": 1}))
    table.fold(batch(life(["retransmit"], sock=0x20, start=9_000_000_000)))
    table.fold(EventBatch(np.zeros(0, dtype=EVENT_DTYPE), 12_000_000_000, 0))

    assert (1, 1) == (len(table), table.given_up)


def test_without_a_loss_a_silent_connection_is_kept():
    table = ConnectionTable(patience_s=10)
    table.fold(batch(life(CLIENT[:2])))
    table.fold(EventBatch(np.zeros(0, dtype=EVENT_DTYPE), 10**15, 0))

    assert (1, 0) == (len(table), table.given_up)


def test_the_table_is_bounded_and_says_what_it_forgot():
    table = ConnectionTable(limit=100)
    for i in range(150):
        table.fold(batch(life(CLIENT[:2], sock=0x1000 + i, start=1_000 + i * 10_000)))

    assert len(table) <= 100
    assert 150 == len(table) + table.forgotten
    assert 149 * 10_000 + 2_000 == table.open_connections()["seen_ns"].max()


ENDINGS = [CLIENT, SERVER, [*CLIENT[:2], (S.ESTABLISHED, S.CLOSE)], [CLIENT[0], (S.SYN_SENT, S.CLOSE)], CLIENT[:3], SERVER[:3], CLIENT[2:]]


@st.composite
def streams(draw):
    """Lives of a few sockets, each socket's one after the other, interleaved at random; cut anywhere at the end."""
    queues = []
    for sock in range(draw(st.integers(1, 4))):
        parts = [
            life(
                draw(st.sampled_from(ENDINGS)),
                sock=sock + 1,
                sport=40_000 + 10 * sock + n,
                tgid=100 + 10 * sock + n,
                sent=n + 2,
                received=n,
            )
            for n in range(draw(st.integers(1, 3)))
        ]
        queues.append([event for part in parts for event in part.reshape(-1, 1)])
    merged = []
    while any(queues):
        queue = draw(st.sampled_from([q for q in queues if q]))
        merged.append(queue.pop(0))
    events = np.concatenate(merged)
    events["ts_ns"] = 1_000 + np.arange(len(events)) * 7
    return events


@settings(max_examples=150, deadline=None)
@given(streams(), st.data())
def test_however_a_stream_is_cut_into_batches_the_connections_are_the_same(events, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(events)), max_size=6)))
    pieces = [events[a:b] for a, b in zip([0, *cuts], [*cuts, len(events)], strict=True)]
    at_once, in_pieces = ConnectionTable(), ConnectionTable()
    whole = at_once.fold(batch(events))
    parts = np.concatenate([in_pieces.fold(EventBatch(piece, 1, 0)) for piece in pieces])

    assert whole.tolist() == parts.tolist()
    assert sorted(at_once.open_connections().tolist()) == sorted(in_pieces.open_connections().tolist())
