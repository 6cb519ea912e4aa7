# SPDX-License-Identifier: Apache-2.0
"""
The BPF ring buffer as NumPy arrays over its memory.

Two layers: RingMemory maps what the kernel shares; RingReader does the arithmetic, with no system call, on any memory. Waiting
is the capture's business.

Layout (kernel/bpf/ringbuf.c, Documentation/bpf/ringbuf.rst): a page with the consumer's position, which we write; a page with
the producer's position; the data. A record is an 8-byte header (length with two flag bits, page offset) and its payload. Our
records are of one size, 120, so that a slot is 128 bytes, the ring is an array of slots, and none wraps around.

Positions are 64-bit and written by the kernel with release semantics. NumPy reads them without barriers: on x86-64 that is
enough; elsewhere the interpreter's own work between two reads is what keeps them in order.
"""

import mmap
from types import TracebackType
from typing import Final

import numpy as np
import numpy.typing as npt

from tracer.errors import RingError
from tracer.events.schema import EVENT_DTYPE, EventArray

BUSY: Final = 1 << 31
DISCARDED: Final = 1 << 30
LENGTH_MASK: Final = DISCARDED - 1

SLOT_DTYPE = np.dtype([("length", "<u4"), ("page", "<u4"), ("event", EVENT_DTYPE)])
NOTHING = np.zeros(0, dtype=EVENT_DTYPE)

Position = npt.NDArray[np.uint64]


class RingMemory:
    """The mapped pages of a ring buffer map. Unmapped by close(), after which no array over it may be used."""

    def __init__(self, map_fd: int, size: int) -> None:
        page = mmap.PAGESIZE
        try:
            self._consumer = mmap.mmap(map_fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=0)
            # The kernel maps the data twice in a row; slots that never wrap need it once.
            self._producer = mmap.mmap(map_fd, page + size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        except OSError as error:
            raise RingError(f"the ring buffer cannot be mapped: {error.strerror}", "try a smaller --ring-size") from error
        self.consumer: Position = np.frombuffer(self._consumer, dtype="<u8", count=1)
        self.producer: Position = np.frombuffer(self._producer, dtype="<u8", count=1)
        self.data = memoryview(self._producer)[page:]

    def close(self) -> None:
        """Gives the memory back. Every array over it must be gone."""
        del self.consumer, self.producer
        self.data.release()
        self._consumer.close()
        self._producer.close()


class RingReader:
    """
    Takes whole batches of records out of a ring.

    Args:
        consumer: shape (1,), uint64, writable: bytes consumed so far.
        producer: shape (1,), uint64: bytes reserved so far.
        data: the ring's bytes, a multiple of 128 of them; a bytearray will do.
    """

    def __init__(self, consumer: Position, producer: Position, data: memoryview | bytearray) -> None:
        self._consumer = consumer
        self._producer = producer
        self._memory = np.frombuffer(data, dtype=np.dtype((np.void, SLOT_DTYPE.itemsize)))
        self._lengths = self._memory.view(SLOT_DTYPE)["length"]
        self._taken = int(consumer[0]) // SLOT_DTYPE.itemsize

    @property
    def pending(self) -> int:
        """Records reserved and not taken yet, complete or not."""
        return int(self._producer[0]) // SLOT_DTYPE.itemsize - self._taken

    @property
    def capacity(self) -> int:
        """Records that fit."""
        return len(self._lengths)

    def take(self, limit: int | None = None) -> EventArray:
        """
        The complete records at the front of the ring, at most *limit*; their space is given back.

        Returns:
            Shape (n,), EVENT_DTYPE, memory of its own, in the order of reservation, without discarded records. n == 0 when there
            is none, or the first is still being written.

        Raises:
            RingError: a record is not of our size, or more are pending than fit.
        """
        count = self.pending
        if count > self.capacity:
            raise RingError(f"the ring buffer claims {count} records where {self.capacity} fit", "report this, with the kernel's version")
        if not count:
            return NOTHING  # as most often at rest
        if limit is not None:
            count = min(count, limit)
        start = self._taken % self.capacity
        front = self._complete(start, min(count, self.capacity - start))
        slots = self._memory[start : start + front].copy()
        if start + front == self.capacity and front < count:
            slots = np.concatenate([slots, self._memory[: self._complete(0, count - front)]])
        events = self._events(slots.view(SLOT_DTYPE))
        self._give_back(len(slots))
        return events

    def _complete(self, start: int, count: int) -> int:
        """How many slots from *start* on, at most *count*, lie before the first that is still being written."""
        busy = self._lengths[start : start + count] >= BUSY
        return int(busy.argmax()) if busy.any() else count

    @staticmethod
    def _events(slots: npt.NDArray[np.void]) -> EventArray:
        lengths = slots["length"]
        wrong = (lengths & LENGTH_MASK) != EVENT_DTYPE.itemsize
        if wrong.any():
            size = int(lengths[wrong.argmax()] & LENGTH_MASK)
            raise RingError(
                f"a record of {size} bytes in the ring, where all have {EVENT_DTYPE.itemsize}", "report this, with the kernel's version"
            )
        discarded = lengths >= DISCARDED
        return slots["event"][~discarded] if discarded.any() else slots["event"]

    def _give_back(self, slots: int) -> None:
        if slots:
            self._taken += slots
            self._consumer[0] = self._taken * SLOT_DTYPE.itemsize


class Ring:
    """A mapped ring and its reader, closed together."""

    def __init__(self, map_fd: int, size: int) -> None:
        self._memory = RingMemory(map_fd, size)
        self.reader = RingReader(self._memory.consumer, self._memory.producer, self._memory.data)

    def __enter__(self) -> "Ring":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        del self.reader
        self._memory.close()
