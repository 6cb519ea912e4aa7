# SPDX-License-Identifier: Apache-2.0
"""The files of a recording: whose they are, what stands in their way, and writing them in a thread."""

import os
import stat
import threading
from pathlib import Path

import pytest

from tests.unit.recordings import make_batches, make_info, plain
from tracer.errors import OutputError, UsageError
from tracer.log.background import BackgroundWriter
from tracer.log.files import OutputFile, open_for_writing
from tracer.log.reader import LogReader
from tracer.log.recording import Destination, Recording


def read(path):
    with open(path, "rb") as file:
        reader = LogReader(file, str(path))
        return reader, [item for item in reader.items() if hasattr(item, "events")]


def record(destination, batches):
    with Recording(destination) as log:
        log.begin(make_info())
        log.keep("cgroups", b'{"7":"/a"}')
        for batch in batches:
            log.append(batch)
    return log


def test_a_new_file_is_its_owners_alone(tmp_path):
    path = tmp_path / "run.arrows"
    os.close(open_for_writing(str(path), force=False))

    assert 0o600 == stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(
    ("name", "problem"), [("there", "exists"), ("link", "exists"), (".", "is a folder"), ("no/run.arrows", "there is no folder")]
)
def test_what_is_in_the_way_is_told_before_anything_starts(tmp_path, name, problem):
    (tmp_path / "there").write_text("mine")
    (tmp_path / "link").symlink_to("nowhere")

    with pytest.raises(UsageError, match=problem):
        Recording(Destination(str(tmp_path / name)))
    assert "mine" == (tmp_path / "there").read_text()


def test_a_link_is_replaced_not_followed(tmp_path):
    (tmp_path / "other").write_text("not ours")
    path = tmp_path / "run.arrows"
    path.symlink_to("other")
    record(Destination(str(path), force=True), make_batches((5,)))

    assert "not ours" == (tmp_path / "other").read_text()
    assert not path.is_symlink()


def test_a_file_that_is_replaced_stays_until_there_is_something_to_record(tmp_path):
    path = tmp_path / "run.arrows"
    path.write_text("mine")
    with Recording(Destination(str(path), force=True)):
        pass

    assert "mine" == path.read_text()


def test_a_full_disk_is_one_clear_error():
    with pytest.raises(OutputError, match="No space left on device"):
        record(Destination("/dev/full"), make_batches((9,) * 1000, step_ns=10**9))


def test_a_frame_that_finds_no_room_is_taken_back(tmp_path, monkeypatch):
    path = tmp_path / "run.arrows"
    file = OutputFile(open_for_writing(str(path), force=False), str(path))
    file.write(b"whole frame")
    room = iter([4])

    def write(descriptor, data, real=os.write):
        try:
            return real(descriptor, bytes(data[: next(room)]))
        except StopIteration:
            raise OSError(28, "No space left on device") from None

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(OutputError):
        file.write(b"half a frame")
    monkeypatch.undo()
    file.close()

    assert b"whole frame" == path.read_bytes()


def test_a_slow_disk_keeps_nobody_waiting_until_the_room_is_full():
    gate, done = threading.Event(), []

    def write(data):
        gate.wait(20)
        done.append(data)

    writer = BackgroundWriter(room_bytes=100)
    for number in range(10):
        writer.put(write, bytes([number]) * 10)
    assert [] == done
    assert 100 == writer.longest_wait
    late = threading.Thread(target=lambda: writer.put(write, b"x" * 10))
    late.start()
    assert late.is_alive()
    gate.set()
    late.join(20)
    writer.close()

    assert [bytes([number]) * 10 for number in range(10)] + [b"x" * 10] == done


def test_a_piece_that_is_larger_than_the_room_is_written_alone():
    done = []
    writer = BackgroundWriter(room_bytes=10)
    writer.put(done.append, b"a" * 100)
    writer.put(done.append, b"b" * 100)
    writer.close()

    assert [100, 100] == [len(data) for data in done]


def test_what_goes_wrong_in_the_thread_comes_out_at_the_next_call():
    def fail(_):
        raise OutputError("no room")

    writer = BackgroundWriter(room_bytes=10)
    writer.put(fail, b"a")
    with pytest.raises(OutputError, match="no room"):
        writer.put(fail, b"b" * 10)  # waits for room until the first has failed
    with pytest.raises(OutputError, match="no room"):
        writer.close()


def test_files_of_a_rotation_each_stand_alone(tmp_path):
    batches = make_batches((9,) * 11, step_ns=10**9)
    record(Destination(str(tmp_path / "run.arrows"), rotate_s=4), batches)
    paths = sorted(tmp_path.iterdir())
    found = [read(path) for path in paths]

    assert ["run.0001.arrows", "run.0002.arrows", "run.0003.arrows"] == [path.name for path in paths]
    assert [1, 2, 3] == [reader.info.part for reader, _ in found]
    assert ["rotated", "rotated", "stopped"] == [reader.condition.ended for reader, _ in found]
    assert [plain(b) for b in batches] == [plain(b) for _, part in found for b in part]
    assert all(0 == reader.condition.damaged_events for reader, _ in found)


def test_a_later_file_of_an_earlier_row_is_told_before_anything_starts(tmp_path):
    (tmp_path / "run.0007.arrows").write_text("mine")

    with pytest.raises(UsageError, match=r"run\.0007\.arrows exists"):
        Recording(Destination(str(tmp_path / "run.arrows"), rotate_s=60))
    with Recording(Destination(str(tmp_path / "run.arrows"))):
        pass


def test_rotation_by_size_keeps_the_newest_files(tmp_path):
    batches = make_batches((500,) * 12, step_ns=10**9)
    record(Destination(str(tmp_path / "run"), rotate_bytes=1 << 16, keep=2, compression="none"), batches)
    names = sorted(path.name for path in tmp_path.iterdir())

    assert 2 == len(names)
    assert all(name.startswith("run.") and name.endswith(".arrows") for name in names)
    _, last = read(tmp_path / names[-1])
    assert plain(batches[-1]) == plain(last[-1])


def test_it_is_full_once_all_files_together_are_as_large_as_they_may(tmp_path):
    batches = make_batches((500,) * 30, step_ns=10**9)
    log = record(Destination(str(tmp_path / "run.arrows"), rotate_bytes=1 << 16, max_bytes=1 << 18, compression="none"), batches)

    assert log.is_full
    total = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert 1 << 18 <= total < (1 << 18) + 150_000
    assert log.size == total


def test_an_empty_run_is_a_recording_too(tmp_path):
    path = Path(tmp_path, "run.arrows")
    record(Destination(str(path)), [])
    reader, batches = read(path)

    assert ("stopped", []) == (reader.condition.ended, batches)
