# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracer.errors import RingError
from tracer.kernel.ring import BUSY, DISCARDED, SLOT_DTYPE, RingReader

SIZE = 120


class FakeRing:
    """A ring of a few slots in plain memory, written as the kernel writes it."""

    def __init__(self, slots=8, start=0):
        self.data = bytearray(slots * 128)
        self.slots = np.frombuffer(self.data, dtype=SLOT_DTYPE)
        self.consumer = np.array([start * 128], dtype="<u8")
        self.producer = np.array([start * 128], dtype="<u8")
        self.reader = RingReader(self.consumer, self.producer, self.data)

    def produce(self, *numbers, flags=0, size=SIZE):
        for number in numbers:
            slot = self.slots[int(self.producer[0]) // 128 % len(self.slots)]
            slot["length"], slot["event"]["sock"] = size | flags, number
            self.producer += 128

    def take(self, limit=None):
        return self.reader.take(limit)["sock"].tolist()

    @property
    def consumed(self):
        return int(self.consumer[0]) // 128


def test_an_empty_ring_gives_nothing():
    ring = FakeRing()

    assert ([], 0) == (ring.take(), ring.consumed)


def test_records_come_in_order_and_their_space_is_given_back():
    ring = FakeRing()
    ring.produce(11, 12, 13)

    assert ([11, 12, 13], 3, 0) == (ring.take(), ring.consumed, ring.reader.pending)


def test_a_record_still_being_written_ends_the_batch():
    ring = FakeRing()
    ring.produce(11)
    ring.produce(12, flags=BUSY)
    ring.produce(13)

    assert ([11], 1) == (ring.take(), ring.consumed)
    ring.slots[1]["length"] = SIZE
    assert [12, 13] == ring.take()


def test_a_busy_head_gives_nothing_and_stays():
    ring = FakeRing()
    ring.produce(11, flags=BUSY)

    assert ([], 0, 1) == (ring.take(), ring.consumed, ring.reader.pending)


def test_a_discarded_record_is_left_out_and_consumed():
    ring = FakeRing()
    ring.produce(11)
    ring.produce(12, flags=DISCARDED)
    ring.produce(13)

    assert ([11, 13], 3) == (ring.take(), ring.consumed)


def test_a_batch_goes_on_behind_the_end_of_the_ring():
    ring = FakeRing(slots=8, start=6)
    ring.produce(11, 12, 13, 14)

    assert [11, 12, 13, 14] == ring.take()


def test_a_busy_record_behind_the_end_ends_the_batch_too():
    ring = FakeRing(slots=8, start=6)
    ring.produce(11, 12, 13)
    ring.produce(14, flags=BUSY)

    assert [11, 12, 13] == ring.take()


def test_positions_beyond_32_bits_are_read():
    ring = FakeRing(start=2**40 + 3)
    ring.produce(11, 12)

    assert [11, 12] == ring.take()


def test_a_limit_leaves_the_rest():
    ring = FakeRing()
    ring.produce(11, 12, 13)

    assert ([11, 12], [13]) == (ring.take(2), ring.take(2))


@pytest.mark.parametrize("size", [0, 119, 121, 4096])
def test_a_record_of_another_size_is_an_error_and_nothing_is_consumed(size):
    ring = FakeRing()
    ring.produce(11)
    ring.produce(12, size=size)

    with pytest.raises(RingError, match=f"a record of {size} bytes"):
        ring.take()
    assert 0 == ring.consumed


def test_more_records_than_fit_are_an_error():
    ring = FakeRing(slots=8)
    ring.producer += 9 * 128

    with pytest.raises(RingError, match="claims 9 records where 8 fit"):
        ring.take()


def test_a_batch_is_memory_of_its_own():
    ring = FakeRing()
    ring.produce(11)
    events = ring.reader.take()
    ring.slots["event"]["sock"] = 99

    assert [11] == events["sock"].tolist()


@settings(deadline=None)
@given(st.integers(0, 2**33), st.lists(st.tuples(st.integers(0, 8), st.none() | st.integers(1, 5)), max_size=40))
def test_whatever_is_produced_is_taken_once_and_in_order(start, steps):
    ring, produced, taken = FakeRing(slots=8, start=start), [], []
    for count, limit in steps:
        room = 8 - ring.reader.pending
        numbers = list(range(len(produced), len(produced) + min(count, room)))
        ring.produce(*numbers)
        produced += numbers
        taken += ring.take(limit)
    taken += ring.take()

    assert produced == taken
