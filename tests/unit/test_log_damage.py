# SPDX-License-Identifier: Apache-2.0
"""What is left of a recording that was cut off or damaged: every whole frame, and never a wrong event."""

import random

import pytest

from tests.unit.recordings import batches_of, make_batches, plain, read, write
from tracer.errors import RecordingError
from tracer.log import writer
from tracer.log.frames import LONGEST, NEAR, CutOff, Damage, EndMark, FrameReader, SoundFrame
from tracer.log.reader import DAMAGED

SIZES = (5, 0, 23, 1, 0, 40, 64, 17, 9, 80)


@pytest.fixture(autouse=True)
def _small_frames(monkeypatch):
    monkeypatch.setattr(writer, "ROWS", 50)


class Pipe:
    """Gives a few bytes at a time, as a pipe may."""

    def __init__(self, data, step=777):
        self._data, self._step, self._at = data, step, 0

    def read(self, size):
        self._at += min(size, self._step)
        return self._data[self._at - min(size, self._step) : self._at]


def stretches(data):
    return list(FrameReader(Pipe(data)))


def events_of(batches):
    return b"".join(batch.events.tobytes() for batch in batches)


@pytest.fixture(scope="module")
def made():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "ROWS", 50)
        batches = make_batches(SIZES)
        return batches, write(batches)


def test_every_byte_belongs_to_one_stretch(made):
    _, data = made
    for changed in (data, data[:5000] + data[5003:], data[: len(data) // 2], data + b"junk" * 5, b"junk" + data):
        found = stretches(changed)
        assert [0, *(s.position + s.length for s in found)][:-1] == [s.position for s in found]
        assert len(changed) == found[-1].position + found[-1].length


def test_cut_off_at_every_length_all_whole_frames_are_read():
    batches = make_batches((29, 23))
    data = write(batches, compression="lz4")
    frames = [s for s in stretches(data) if isinstance(s, SoundFrame)]
    ends = [frame.position + frame.length for frame in frames]
    for length in range(ends[0]):
        with pytest.raises(RecordingError):
            read(data[:length])
    for length in range(ends[0], len(data) - 8):
        whole = [end for end in ends if end <= length]
        reader, items = read(data[:length])
        assert (0 if len(whole) < 2 else 52) == sum(map(len, batches_of(items)))
        assert events_of(batches).startswith(events_of(batches_of(items)))
        assert ("", [], length - whole[-1]) == (reader.condition.ended, reader.condition.damage, reader.condition.cut_bytes)


def test_cut_off_the_batches_read_are_those_that_were_written(made):
    batches, data = made
    frames = [s for s in stretches(data) if isinstance(s, SoundFrame)]
    for frame in frames[1:]:
        _, items = read(data[: frame.position + 11])
        found = [plain(batch) for batch in batches_of(items)]
        assert [plain(batch) for batch in batches[: len(found)]] == found


def check_damaged(batches, data):
    """What a damaged recording gives is a part of what was written, batch by batch, and what is missing is counted where that is known."""
    try:
        reader, items = read(data)
    except RecordingError:
        return None
    originals = {plain(batch)[:3]: batch for batch in batches}
    counted = 0
    for batch in batches_of(items):
        counted += len(batch) + batch.lost.get(DAMAGED, 0)
        if len(batch) or batch.lost.keys() != {DAMAGED}:
            original = originals[plain(batch)[:3]]
            assert {r: n for r, n in batch.lost.items() if r != DAMAGED} == original.lost
    if reader.condition.ended:
        assert sum(map(len, batches)) == counted
    return reader


def test_bytes_flipped_at_a_thousand_places_are_found_and_never_decoded(made):
    batches, data = made
    rng = random.Random(23)
    unread = 0
    for _ in range(1000):
        place, bit = rng.randrange(len(data) - 8), 1 << rng.randrange(8)
        changed = bytearray(data)
        changed[place] ^= bit
        reader = check_damaged(batches, bytes(changed))
        unread += reader is None
        if reader is not None:
            assert any(d.position <= place < d.position + d.length for d in reader.condition.damage) or reader.condition.cut_bytes
    assert 0 == unread


def test_several_damages_at_once(made):
    batches, data = made
    rng = random.Random(5)
    for _ in range(200):
        changed = bytearray(data)
        for _ in range(rng.randrange(1, 6)):
            place = rng.randrange(len(data))
            changed[place : place + rng.randrange(1, 300)] = rng.randbytes(rng.randrange(0, 300))
        check_damaged(batches, bytes(changed))


def test_a_damaged_beginning_loses_nothing(made):
    batches, data = made
    changed = bytearray(data)
    changed[40] ^= 1
    reader, items = read(bytes(changed))

    assert "alpha" == reader.info.host
    assert [plain(b) for b in batches] == [plain(b) for b in batches_of(items)]
    assert [0] == [damage.position for damage in reader.condition.damage]


def test_a_hole_of_zeros_as_a_power_cut_leaves_it_is_skipped(made):
    _, data = made
    frames = [s for s in stretches(data) if isinstance(s, SoundFrame)]
    hole = frames[3]
    changed = data[: hole.position] + bytes(5 * NEAR) + data[hole.position + hole.length :]
    reader, items = read(changed)

    assert sum(SIZES) == sum(len(b) + b.lost.get(DAMAGED, 0) for b in batches_of(items))
    assert [Damage(hole.position, 5 * NEAR)] == reader.condition.damage


def test_zeros_at_the_end_are_damage_and_the_end_is_missing(made):
    _, data = made
    frames = [s for s in stretches(data) if isinstance(s, SoundFrame)]
    reader, _ = read(data[: frames[-1].position] + bytes(10_000))

    assert ([Damage(frames[-1].position, 10_000)], "") == (reader.condition.damage, reader.condition.ended)


def test_a_label_that_promises_too_much_is_not_believed(made):
    _, data = made
    frames = [s for s in stretches(data) if isinstance(s, SoundFrame)]
    changed = bytearray(data)
    at = data.index(b" length ", frames[1].position) + len(b" length ")
    changed[at : at + 8] = b"%08x" % (LONGEST + 8)
    found = stretches(bytes(changed))

    assert [SoundFrame, Damage, *[SoundFrame] * (len(frames) - 2), EndMark] == [type(s) for s in found]


def test_a_frame_that_is_longer_than_the_file_is_cut_off(made):
    _, data = made
    frames = [s for s in stretches(data) if isinstance(s, SoundFrame)]
    last = frames[-1]
    found = stretches(data[: last.position + last.length - 1])

    assert CutOff(last.position, last.length - 1) == found[-1]


def test_a_command_line_that_looks_like_a_label_confuses_nothing(made):
    batches, _ = made
    from tests.unit.recordings import make_info

    label = "\ntcptrace frame crc32 00000000 length 00000000\n"
    reader, items = read(write(batches, make_info(command_line=[label, label.strip()])))

    assert [label, label.strip()] == reader.info.command_line
    assert [plain(b) for b in batches] == [plain(b) for b in batches_of(items)]
