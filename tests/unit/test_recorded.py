# SPDX-License-Identifier: Apache-2.0
"""Recordings in the place of a capture: events, conns, live, replay, export and query over made ones."""

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import duckdb
import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.unit.recordings import NS, make_info, make_run, write
from tracer.cli.app import run
from tracer.cli.points import Point, parse_point, parse_speed
from tracer.cli.run import Run
from tracer.events.batch import EventBatch
from tracer.log.entries import FORMAT, Sample
from tracer.views.arrow import CONNECTION_SCHEMA, EVENT_SCHEMA
from tracer.views.columns import EVENT_NAMES
from tracer.views.connections import CONNECTION_NAMES

LIVES = 23
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def recording(tmp_path):
    """A recording of 23 connections, on disk."""
    path = tmp_path / "run.arrows"
    cgroups = Sample("cgroups", msgspec.json.encode({77: "/system.slice/web.service"}))
    path.write_bytes(write([cgroups, *make_run(LIVES)]))
    return str(path)


@pytest.fixture
def tell(capsysbinary):
    """Runs tcptrace; what it wrote to standard output."""

    def run_and_read(*arguments, code=0):
        found = run([str(a) for a in arguments])
        out, err = capsysbinary.readouterr()
        assert code == found, err
        return out.decode() if code == 0 else err.decode()

    return run_and_read


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


def test_events_of_a_recording(tell, recording):
    events = lines(tell("events", "--input", recording, "--format", "json"))

    assert 11 * LIVES == len(events)
    assert {"client": 5 * LIVES, "server": 4 * LIVES, None: 2 * LIVES} == {
        comm: sum(e["comm"] == comm for e in events) for comm in ("client", "server", None)
    }


def test_connections_of_a_recording_and_the_names_of_their_cgroups(tell, recording):
    connections = lines(tell("conns", "--input", recording, "--format", "json"))

    assert 2 * LIVES == len(connections)
    assert {"/system.slice/web.service"} == {c["cgroup"] for c in connections}
    assert {"closed_local", "closed_remote"} == {c["outcome"] for c in connections}
    assert all(c["complete"] for c in connections)


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        (["-D", "8080"], 5 * LIVES),
        (["-L", "8080"], 6 * LIVES),
        (["-L", "40003,40004"], 2 * 5),
        (["-p", "100"], 5 * LIVES),
        (["-c", "server"], 4 * LIVES),
        (["-6"], 0),
        (["--addr", "10.0.0.0/8"], 0),
        (["--count", "17"], 17),
        (["--duration", "0.1"], 80),
    ],
)
def test_filters_apply_to_a_recording_as_to_a_capture(tell, recording, options, kept):
    assert kept == len(lines(tell("events", "--input", recording, "--format", "json", *options)))


def test_a_recording_may_come_through_a_pipe(tell, recording, monkeypatch, tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    if os.fork() == 0:
        fifo.write_bytes(Path(recording).read_bytes())
        os._exit(0)

    assert 11 * LIVES == len(lines(tell("events", "--input", fifo, "--format", "json")))
    os.wait()


def handles_signals(pid):
    """Whether it has handlers for SIGHUP, SIGINT and SIGTERM."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(re.search(r"^SigCgt:\s*([0-9a-f]+)", status, re.MULTILINE)[1], 16)
    return caught & 0x4003 == 0x4003


@pytest.mark.parametrize("writing", [True, False])
def test_a_signal_ends_the_wait_for_a_pipe(tmp_path, writing):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    command = [sys.executable, "-m", "tracer", "events", "--format", "json", "--input", str(fifo)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
        if writing:
            with open(fifo, "wb") as stream:
                stream.write(write(make_run(LIVES), end=None))
                stream.flush()
                assert b"replaying" in process.stderr.readline()
                assert b'"kind":"state"' in process.stdout.readline()
                process.send_signal(signal.SIGINT)
                process.communicate(timeout=20)  # it may have more to write than the pipe holds
                assert 0 == process.returncode
        else:
            while not handles_signals(process.pid):
                assert process.poll() is None
            process.send_signal(signal.SIGINT)
            assert 6 == process.wait(20)


def test_the_files_of_a_rotation_are_put_in_order_and_a_missing_one_is_a_loss(tell, tmp_path):
    batches = make_run(LIVES)
    paths = []
    for part, chosen in enumerate((batches[:2], batches[2:4], batches[4:]), 1):
        before = sum(map(len, batches[: 2 * part - 2]))
        paths.append(tmp_path / f"run.{part:04}.arrows")
        paths[-1].write_bytes(write(chosen, make_info(part=part), end="rotated" if part < 3 else "stopped", first_event=before))
    inputs = [argument for path in (paths[2], paths[0], paths[1]) for argument in ("--input", path)]
    whole = lines(tell("events", *inputs, "--format", "json"))
    gap = lines(tell("events", "--input", paths[0], "--input", paths[2], "--format", "json"))

    assert 11 * LIVES == len(whole)
    assert sorted(e["ts_ns"] for e in whole) == [e["ts_ns"] for e in whole]
    assert [80] == [e["lost"] for e in gap if e["kind"] == "lost"]


def test_recordings_of_two_runs_are_not_mixed(tell, recording, tmp_path):
    other = tmp_path / "other.arrows"
    other.write_bytes(write(make_run(3), make_info(boot_id="b-2", host="beta")))

    assert "2 recordings of 2 runs" in tell("events", "--input", recording, "--input", other, code=2)


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda path: None, "cannot read"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.write_text("tcptrace, but not one of ours\n" * 100), "is no recording"),
        (lambda path: path.write_bytes(write(make_run(2), make_info(format=FORMAT + 1, version="9.9"))), "has format 2, of tcptrace 9.9"),
        (lambda path: path.write_bytes(write(make_run(2))[:3000]), "is no recording of tcptrace, or nothing"),
    ],
)
def test_what_cannot_be_read_is_one_clear_error(tell, tmp_path, make, problem):
    path = tmp_path / "run.arrows"
    make(path)
    for command in (["conns", "--input", path], ["replay", path], ["export", path, "-o", tmp_path / "x.csv"]):
        error = tell(*command, code=6)
        assert problem in error
        assert 2 == len(error.splitlines())
    assert not (tmp_path / "x.csv").exists()


@pytest.mark.parametrize(
    ("library", "command", "extra"),
    [
        ("pyarrow", "events --input RUN", "tcptrace[log]"),
        ("pyarrow", "record -o new.arrows", "tcptrace[log]"),
        ("pyarrow", "replay RUN", "tcptrace[log]"),
        ("pyarrow", "export RUN -o new.csv", "tcptrace[log]"),
        ("pyarrow", "query --schema", "tcptrace[log]"),
        ("duckdb", "query RUN FROM", "tcptrace[query]"),
    ],
)
def test_a_library_that_is_not_installed_is_one_clear_error(tell, recording, monkeypatch, library, command, extra):
    monkeypatch.setitem(sys.modules, library, None)
    error = tell(*(recording if word == "RUN" else word for word in command.split()), code=2)

    assert f"{library}, which is not installed" in error
    assert f"pip install '{extra}'" in error


def test_a_recording_that_was_cut_off_says_so(capsys, tmp_path):
    path = tmp_path / "run.arrows"
    path.write_bytes(write(make_run(LIVES, step_ns=10_000_000))[:-100])

    assert 0 == run(["events", "--input", str(path), "--format", "csv"])
    assert "its end is missing: nothing is known of what came after 2026-09-21T14:" in capsys.readouterr().err


def test_a_replay_without_a_single_sample_shows_the_last_picture(tell, recording):
    pictures = lines(tell("replay", "--speed", "max", "--json", recording))

    assert 11 * LIVES == pictures[-1]["totals"]["events"]
    assert "alpha" == pictures[-1]["host"]
    assert pictures[-1]["exact"] is False


@pytest.mark.parametrize(
    "command",
    [
        "replay",
        "replay RUN --speed 0",
        "replay RUN --speed fast",
        "replay RUN --from yesterday",
        "replay RUN --refresh 0",
        "replay RUN -p 1",
        "events --input RUN --no-bpf",
        "conns --input RUN --open",
        "export RUN -o run.xlsx",
        "export RUN -o /nonexistent/x.csv",
        "export RUN -o RUN --force --table nothing",
        "query RUN",
        "query RUN FROM",
        "record",
        "record -o /",
        "record -o /nonexistent/run.arrows",
        "record -o RUN",
        "record -o new.arrows --max-size 1",
        "record -o new.arrows --max-size lots",
        "record -o new.arrows --rotate-time 0",
        "record -o new.arrows --rotate-size 1.5M",
        "record -o new.arrows --keep 3",
        "record -o new.arrows --keep 0 --rotate-time 1h",
        "record -o - --rotate-time 1h",
        "record -o - --console",
        "record -o new.arrows --console -p 1",
        "record -o new.arrows --console --json",
        "record -o new.arrows --compression gzip",
    ],
)
def test_bad_input_is_a_short_message(tell, recording, command, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    error = tell(*(recording if word == "RUN" else word for word in command.split()), code=2)

    assert 1 <= len(error.splitlines()) <= 4
    assert not (tmp_path / "new.arrows").exists()


def test_points_of_a_recording():
    assert [Point(90 * NS), Point(90 * NS), Point(3723 * NS + 500_000_000)] == [parse_point(t) for t in ("90", "1:30", "1:02:03.5")]
    assert Point(1_767_225_600 * NS, is_wall=True) == parse_point("2026-01-01T00:00:00Z")
    batch = EventBatch(make_run(1)[0].events, 7 * NS, 100 * NS)
    assert [True, False, True, False] == [
        point.is_reached(batch, 2 * NS) for point in (Point(5 * NS), Point(6 * NS), Point(107 * NS, True), Point(108 * NS, True))
    ]
    assert (0.5, float("inf")) == (parse_speed("0.5"), parse_speed("max"))


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
@pytest.mark.parametrize(("table", "command", "names"), [("events", "events", EVENT_NAMES), ("conns", "conns", CONNECTION_NAMES)])
def test_exported_text_is_what_the_commands_write(tell, recording, tmp_path, suffix, table, command, names):
    form = {".csv": "csv", ".jsonl": "json"}[suffix]
    expected = tell(command, "--input", recording, "--format", form)
    tell("export", recording, "-o", tmp_path / f"x{suffix}", "--table", table)
    text = (tmp_path / f"x{suffix}").read_text()

    assert expected == text
    found = next(csv.reader(io.StringIO(text))) if suffix == ".csv" else list(json.loads(text.splitlines()[0]))
    assert list(names) == found


def as_objects(path):
    """Rows of a Parquet file as JSON Lines would have them."""
    table = pq.read_table(path)
    times = [name for name in table.column_names if pa.types.is_timestamp(table.schema.field(name).type)]
    for name in times:
        text = pc.strftime(table[name], format="%Y-%m-%dT%H:%M:%SZ")
        table = table.set_column(table.schema.get_field_index(name), name, text)
    return table.to_pylist()


def test_parquet_says_the_same_as_json(tell, tmp_path):
    path = tmp_path / "run.arrows"
    path.write_bytes(write(make_run(LIVES, lost_before=3)))
    tell("export", path, "-o", tmp_path / "e.parquet")
    rows = as_objects(tmp_path / "e.parquet")
    events = lines(tell("events", "--input", path, "--format", "json"))

    events.sort(key=lambda e: e["ts_ns"])
    assert [*EVENT_NAMES] == EVENT_SCHEMA.names[1:] == list(events[0])
    for row, event in zip(rows, events, strict=True):
        assert "alpha" == row.pop("host")
        if event["sock"] is not None:
            event["sock"] = int(event["sock"], 16)
        assert event == row


def test_parquet_of_connections_says_the_same_as_json(tell, recording, tmp_path):
    tell("export", recording, "-o", tmp_path / "c.parquet", "--table", "conns")
    rows = as_objects(tmp_path / "c.parquet")
    connections = lines(tell("conns", "--input", recording, "--format", "json"))

    assert [*CONNECTION_NAMES] == CONNECTION_SCHEMA.names[1:]
    for row, connection in zip(rows, connections, strict=True):
        row.pop("host")
        assert connection == pytest.approx(row)


def test_parquet_is_sorted_with_differences_and_statistics(tell, recording, tmp_path):
    tell("export", recording, "-o", tmp_path / "e.parquet")
    group = pq.ParquetFile(tmp_path / "e.parquet").metadata.row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}

    assert "ts_ns" == EVENT_SCHEMA.names[group.sorting_columns[0].column_index]
    assert "DELTA_BINARY_PACKED" in columns["ts_ns"].encodings
    assert "RLE_DICTIONARY" in columns["saddr"].encodings
    assert columns["ts_ns"].statistics.has_min_max
    assert 0o600 == (tmp_path / "e.parquet").stat().st_mode & 0o777


def test_a_dataset_has_hosts_and_dates_and_takes_several_runs(tell, recording, tmp_path):
    other = tmp_path / "other.arrows"
    other.write_bytes(write(make_run(3), make_info(boot_id="b-2", host="be/ta")))
    tell("export", recording, other, "-o", tmp_path / "data")
    events = duckdb.read_parquet(f"{tmp_path}/data/events/**/*.parquet", hive_partitioning=True)
    found = events.aggregate("host, count(*)").order("host").fetchall()

    assert [("alpha", 11 * LIVES), ("be/ta", 33)] == found
    assert ["conns", "events"] == sorted(path.name for path in (tmp_path / "data").iterdir())
    assert "exists" in tell("export", recording, "-o", tmp_path / "data", code=2)
    tell("export", recording, "-o", tmp_path / "data", "--force")


def test_an_export_does_not_replace_a_file_unless_it_is_told_to(tell, recording, tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("mine")

    assert "exists" in tell("export", recording, "-o", path, code=2)
    assert "mine" == path.read_text()
    tell("export", recording, "-o", path, "--force")
    assert path.read_text().startswith("time,ts_ns")
    assert [] == [p.name for p in tmp_path.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("name", ["x.parquet", "x.csv", "folder"])
def test_an_export_that_is_interrupted_leaves_no_file(tell, recording, tmp_path, monkeypatch, name):
    def interrupted(batches):
        def taken(self, poll_s):
            for number, batch in enumerate(batches(self, poll_s)):
                yield batch
                if number == 2:
                    os.kill(os.getpid(), signal.SIGINT)

        return taken

    monkeypatch.setattr(Run, "batches", interrupted(Run.batches))
    assert "interrupted before the end" in tell("export", recording, "-o", tmp_path / name, code=1)
    assert [] == [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "run.arrows"]


def test_sql_over_events_connections_and_seconds(tell, recording):
    by_kind = lines(tell("query", recording, "SELECT kind, count(*) AS n FROM events GROUP BY kind ORDER BY n", "--format", "json"))
    both = tell(
        "query", recording, "SELECT count(*) FROM conns c JOIN events e ON e.dport = c.sport WHERE e.kind = 'accept'", "--format", "csv"
    )
    seconds = lines(tell("query", recording, "FROM seconds", "--format", "json"))

    assert [{"kind": "accept", "n": LIVES}, {"kind": "state", "n": 10 * LIVES}] == by_kind
    assert str(LIVES) == both.splitlines()[1]
    assert {"host": "alpha", "events": 11 * LIVES, "opened": LIVES, "accepted": LIVES, "established": 2 * LIVES, "failed": 0}.items() <= {
        **seconds[0]
    }.items()


def test_sql_over_several_recordings(tell, recording, tmp_path):
    other = tmp_path / "other.arrows"
    other.write_bytes(write(make_run(3), make_info(boot_id="b-2", host="beta")))
    text = tell("query", recording, other, "SELECT host, count(*) AS n FROM events GROUP BY host ORDER BY host")

    assert ["host     n", "alpha  253", "beta    33"] == text.splitlines()


def test_times_in_results_have_all_their_digits(tell, recording):
    found = lines(tell("query", recording, "SELECT min(time) AS t, min(ts_ns) AS ns FROM events", "--format", "json"))

    assert [{"t": "2026-09-21T14:30:00.000000000Z", "ns": 1_000 * NS}] == found


def test_every_column_of_the_views_is_listed_with_its_meaning(tell):
    listed = [(r["view"], r["column"], r["meaning"]) for r in lines(tell("query", "--schema", "--format", "json"))]

    assert EVENT_SCHEMA.names == [column for view, column, _ in listed if view == "events"]
    assert CONNECTION_SCHEMA.names == [column for view, column, _ in listed if view == "conns"]
    assert all(meaning for _, _, meaning in listed)


def test_the_listed_columns_of_seconds_are_those_that_it_has(tell, recording):
    listed = [r["column"] for r in lines(tell("query", "--schema", "--format", "json")) if r["view"] == "seconds"]

    assert listed == list(lines(tell("query", recording, "FROM seconds", "--format", "json"))[0])


def test_a_wrong_query_is_one_clear_error(tell, recording):
    assert "Referenced column" in tell("query", recording, "SELECT nonsense FROM events", code=2)
