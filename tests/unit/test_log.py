# SPDX-License-Identifier: Apache-2.0
"""The event log: what is written is read again, in the same batches; and other programs can read it too."""

import base64
import subprocess
import sys
import zlib

import duckdb
import msgspec
import numpy as np
import polars
import pyarrow as pa
import pytest

from tests.unit.recordings import BEGAN_NS, batches_of, make_batches, make_info, plain, read, write
from tracer.errors import RecordingError
from tracer.events.batch import EventBatch
from tracer.events.clock import TOLERANCE_NS, WallClock
from tracer.events.schema import EVENT_DTYPE, no_events
from tracer.kernel.counters import CounterTotals
from tracer.log import writer
from tracer.log.codec import decode, encode
from tracer.log.columns import LOG_COLUMNS, NOT_RECORDED
from tracer.log.entries import FORMAT, Sample
from tracer.log.reader import LogReader
from tracer.log.schema import from_arrow, log_schema, to_arrow

SIZES = (5, 0, 23, 1, 0, 0, 4096, 17)


def test_every_field_of_an_event_has_a_column_with_a_meaning():
    assert [name for name in EVENT_DTYPE.names if name not in NOT_RECORDED] == [column.name for column in LOG_COLUMNS]
    assert all(column.meaning and "\n" not in column.meaning for column in LOG_COLUMNS)
    assert {"ts_ns": "ns", "srtt_us": "us"}.items() <= {c.name: c.unit for c in LOG_COLUMNS}.items()


def test_units_and_meanings_are_in_the_file():
    data = write(make_batches((1,)))
    schema = pa.ipc.open_stream(data).schema

    for column in LOG_COLUMNS:
        metadata = schema.field(column.name).metadata
        assert (column.unit.encode(), column.meaning.encode()) == (metadata[b"unit"], metadata[b"description"])
    assert b'"alpha"' == schema.metadata[b"host"]
    assert {b"version", b"kernel", b"boot_id", b"wall_offset_ns", b"hooks", b"command_line"} <= set(schema.metadata)


@pytest.mark.parametrize("compression", ["zstd", "lz4", "none"])
def test_the_same_batches_come_back(compression):
    batches = make_batches(SIZES)
    reader, items = read(write(batches, compression=compression))

    assert [plain(batch) for batch in batches] == [plain(batch) for batch in items if isinstance(batch, EventBatch)]
    assert make_info() == reader.info
    assert ("stopped", True, [], 0) == (
        reader.condition.ended,
        reader.condition.is_known,
        reader.condition.damage,
        reader.condition.cut_bytes,
    )


def test_small_batches_share_a_record_batch_but_none_waits_for_more_than_a_second():
    batches = make_batches((1,) * 10, step_ns=300_000_000)
    table = pa.ipc.open_stream(write(batches))

    assert [5, 5] == [batch.num_rows for batch in table if batch.num_rows]


def test_batches_without_anything_wait_for_longer():
    batches = make_batches((0,) * 41, step_ns=500_000_000)
    batches[2] = EventBatch(no_events(), batches[2].now_ns, batches[2].wall_offset_ns)
    written = []
    log = writer.LogWriter(written.append, make_info())
    log.flush()
    before = len(written)
    for batch in batches[:20]:
        log.append(batch)
    assert before == len(written)
    log.append(batches[20])
    assert before + 1 == len(written)


def test_a_full_record_batch_is_written_at_once(monkeypatch):
    monkeypatch.setattr(writer, "ROWS", 100)
    batches = make_batches((60, 60, 60), step_ns=1)

    assert [120, 60] == [batch.num_rows for batch in pa.ipc.open_stream(write(batches))]


class Parts:
    """A pipe whose writer has written one part more whenever it is read."""

    def __init__(self, parts):
        self._parts = iter(parts)
        self.given = 0

    def read(self, _size):
        self.given += 1
        return next(self._parts, b"")


@pytest.mark.parametrize(("together", "read"), [(1, [2, 3, 4, 5, 6]), (2, [2, 2, 3, 3, 4])])
def test_a_batch_that_came_whole_does_not_wait_for_the_next_one(monkeypatch, together, read):
    monkeypatch.setattr(writer, "ROWS", 1)
    written = []
    log = writer.LogWriter(written.append, make_info())
    batches = make_batches((3,) * 5)
    for batch in batches:
        log.append(batch)
    pipe = Parts([written[0], *(b"".join(written[i : i + together]) for i in range(1, len(written), together))])
    found = [(pipe.given, plain(item)) for item in LogReader(pipe, "pipe").items() if isinstance(item, EventBatch)]

    assert (read, [plain(batch) for batch in batches]) == ([given for given, _ in found], [batch for _, batch in found])


def test_samples_stay_at_their_place():
    one, two, *others = make_batches(SIZES)
    small, large = Sample("baseline", b"\0\xffabc"), Sample("dump", bytes(range(256)) * 4000)
    _, items = read(write([small, one, two, large, *others]))

    samples = [(i, item.kind, item.content) for i, item in enumerate(items) if isinstance(item, Sample)]
    assert [(1, "baseline", b"\0\xffabc"), (4, "dump", bytes(range(256)) * 4000)] == samples[1:]
    assert "run" == samples[0][1]


def test_a_sample_of_arrays_comes_back():
    none = np.array([3, 4], dtype=np.uint64)
    totals = CounterTotals(np.arange(512, dtype=np.uint64).reshape(2, 16, 16), none, none, none, none, 1, 2, {"ring_full": 3}, 4, 5)
    found = decode(encode(totals), CounterTotals)

    assert (found.transitions == totals.transitions).all()
    assert (np.uint64, (2, 16, 16), [3, 4], {"ring_full": 3}, 5) == (
        found.transitions.dtype,
        found.transitions.shape,
        found.accepts.tolist(),
        found.lost,
        found.other_protocols,
    )


def test_events_of_an_older_recording_have_zeros_where_it_has_no_column():
    events = make_batches((9,))[0].events
    schema = log_schema({})
    batch = to_arrow(events, schema).drop_columns(["cgroup"])
    found = from_arrow(batch)

    assert 0 == found["cgroup"].sum() < events["cgroup"].sum()
    assert found["uid"].tolist() == events["uid"].tolist()


def test_a_clock_that_is_set_back_changes_the_offset_of_what_follows_only():
    readings = iter([10**18, 10**18, 10**18 - 3600 * 10**9, 10**18 - 3600 * 10**9 + TOLERANCE_NS // 2])
    clock = WallClock(lambda: next(readings))
    batches = [EventBatch(b.events, b.now_ns, clock.offset_ns(), b.lost) for b in make_batches((4, 5, 6))]
    _, items = read(write(batches))

    offsets = [batch.wall_offset_ns for batch in items if isinstance(batch, EventBatch)]
    assert [10**18, 10**18 - 3600 * 10**9, 10**18 - 3600 * 10**9] == offsets
    assert BEGAN_NS < items[-1].now_ns


def test_a_newer_format_is_one_clear_error():
    with pytest.raises(RecordingError, match=r"run.arrows has format 2, of tcptrace 9.9; this one reads up to 1"):
        read(write([], make_info(format=FORMAT + 1, version="9.9")))


def test_later_fields_of_the_stream_are_left_alone():
    data = write(make_batches((3,)))
    reader, _ = read(data)

    assert msgspec.structs.replace(reader.info) == make_info()


@pytest.mark.parametrize("content", [b"x" * 10, b"\xff\xff\xff\xff" * 100, bytes(100_000), b"PAR1" + bytes(50)])
def test_a_file_of_another_program_is_one_clear_error(content):
    with pytest.raises(RecordingError, match="no recording"):
        read(content)


def test_an_arrow_stream_of_another_program_is_one_clear_error():
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, pa.schema([("a", pa.int64())])) as stream:
        stream.write_batch(pa.record_batch({"a": [1, 2, 3]}))
    with pytest.raises(RecordingError, match="no recording"):
        read(sink.getvalue().to_pybytes())


def test_two_recordings_in_one_file_are_one_clear_error():
    one, two = write(make_batches((3,))), write(make_batches((4,)), make_info(boot_id="b-2"))
    with pytest.raises(RecordingError, match=rf"another recording begins in run.arrows at byte {len(one)}"):
        read(one + two)


def test_what_a_later_version_may_add_to_a_record_batch_is_one_clear_error(monkeypatch):
    monkeypatch.setattr(writer, "pack", lambda frame: base64.b64encode(zlib.compress(b"\x81\xa3new\x01")))
    with pytest.raises(RecordingError, match=r"run.arrows holds at byte \d+ what this version cannot read"):
        read(write(make_batches((3,))))


def test_an_empty_file_is_one_clear_error():
    with pytest.raises(RecordingError, match=r"run.arrows is empty"):
        read(b"")


@pytest.mark.parametrize("compression", ["zstd", "lz4", "none"])
def test_pyarrow_polars_and_duckdb_read_it_without_us(tmp_path, compression):
    batches = make_batches(SIZES)
    path = tmp_path / "run.arrows"
    path.write_bytes(write(batches, compression=compression))
    program = "import pyarrow as pa, sys; print(pa.ipc.open_stream(sys.argv[1]).read_all().num_rows)"
    alone = subprocess.run([sys.executable, "-I", "-c", program, str(path)], check=True, capture_output=True, text=True, cwd="/")
    stream = pa.ipc.open_stream(str(path))
    frame = polars.read_ipc_stream(path)
    expected = sum(int(batch.events["sport"].sum()) for batch in batches)

    assert (sum(SIZES), expected) == duckdb.from_arrow(stream).aggregate("count(*), sum(sport)").fetchall()[0]
    assert (sum(SIZES), expected) == (frame.height, frame["sport"].sum())
    assert sum(SIZES) == int(alone.stdout)


def test_a_recording_that_goes_on_gives_what_is_there():
    batches = make_batches(SIZES)
    reader, items = read(write(batches, end=None))

    assert [plain(batch) for batch in batches] == [plain(batch) for batch in batches_of(items)]
    assert ("", True) == (reader.condition.ended, reader.condition.is_known)
