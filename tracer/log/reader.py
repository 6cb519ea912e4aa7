# SPDX-License-Identifier: Apache-2.0
"""
From the bytes of a recording back to batches and samples.

Damage is skipped and named: the events that it took are a loss of the batch that follows, by the reason "damaged". A recording that
was cut off gives all that was written whole.
"""

import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import msgspec
import pyarrow as pa

from tracer.errors import RecordingError
from tracer.events.batch import EventBatch
from tracer.events.schema import EventArray, no_events
from tracer.log.entries import ENTRIES_KEY, FORMAT, Ended, Frame, RunInfo, Sample, Taken, read_run_info, unpack
from tracer.log.frames import CutOff, Damage, EndMark, FrameReader, Readable, SoundFrame
from tracer.log.schema import from_arrow, log_schema

DAMAGED = "damaged"
#: Handing out twenty small columns to threads costs more than decompressing them.
READ_OPTIONS = pa.ipc.IpcReadOptions(use_threads=False)
#: The events of a frame, and its metadata as they are packed.
Decompressed = tuple[pa.RecordBatch, bytes]
NO_RECORDING = "give a file that `tcptrace record` wrote"


@dataclass(slots=True)
class Condition:
    """
    What is wrong with a recording, known once it has been read.

    Attributes:
        damage: stretches of bytes that were left out.
        damaged_events: how many events they held, as far as what follows tells.
        cut_bytes: of a frame at the end that was not written whole.
        ended: the reason of its end, "" without one: it was cut off.
        last_ns: wall time of the last batch read, or 0.
        is_known: the recording has been read to its end.
    """

    damage: list[Damage] = field(default_factory=list)
    damaged_events: int = 0
    cut_bytes: int = 0
    ended: str = ""
    last_ns: int = 0
    is_known: bool = False


class LogReader:
    """
    Reads one recording, once.

    Args:
        stream: at its beginning.
        name: for messages.
        first_event: how many events the files of the same run before this one held; None: not known, unless it is the first.

    Attributes:
        info: the run.
        condition: what is wrong with it; complete once items() has ended.
        next_event: number of the next event, in all files of the run.

    Raises:
        RecordingError: it is no recording, or one of a newer version.
    """

    def __init__(self, stream: Readable, name: str, first_event: int | None = None) -> None:
        self._name = name
        self._reader = FrameReader(stream)
        self._stretches = iter(self._reader)
        self._held: list[SoundFrame] = []
        self.condition = Condition()
        self.next_event = first_event
        self._missing = 0
        self._beginning = log_schema({}).serialize().to_pybytes()
        self.info = self._begin()
        if self.next_event is None and self.info.part == 1:
            self.next_event = 0

    def _begin(self) -> RunInfo:
        """The run from the first message, or, where that is damaged, from the first record batch that is sound."""
        empty = True
        for stretch in self._stretches:
            empty = False
            if isinstance(stretch, SoundFrame):
                return self._run_info(stretch)
            self._note(stretch)
        if empty:
            raise RecordingError(f"{self._name} is empty", NO_RECORDING)
        raise RecordingError(f"{self._name} is no recording of tcptrace, or nothing of it was written whole", NO_RECORDING)

    def _run_info(self, frame: SoundFrame) -> RunInfo:
        metadata = first_schema_metadata(frame.data)
        try:
            if metadata is None:
                self._held.append(frame)
                return self._check(self._run_of_batch(frame))
            self._beginning = frame.data
            self._check_format(int(metadata.get(b"format", b"0")), metadata.get(b"version", b"").decode())
            return self._check(read_run_info(metadata))
        except (msgspec.MsgspecError, ValueError) as error:
            raise RecordingError(f"{self._name} does not say what it holds: {error}", NO_RECORDING) from error

    def _run_of_batch(self, frame: SoundFrame) -> RunInfo:
        with self._telling(frame):
            entries = unpack(self._decompress(frame)[1])
        for entry in entries.entries:
            if isinstance(entry, Sample) and entry.kind == "run":
                return msgspec.json.decode(entry.content, type=RunInfo)
        raise RecordingError(f"{self._name} is damaged at its beginning, and its first record batch too", "use another copy of the file")

    def _check(self, info: RunInfo) -> RunInfo:
        self._check_format(info.format, info.version)
        return info

    def _check_format(self, number: int, version: str) -> None:
        if number > FORMAT:
            raise RecordingError(
                f"{self._name} has format {number}, of tcptrace {version.strip(chr(34))}; this one reads up to {FORMAT}",
                "read it with a newer tcptrace",
            )

    def items(self) -> Iterator[EventBatch | Sample]:
        """Everything in the recording, in the order in which it happened."""
        entries: Frame | None = None
        for events, entries in self._decoded():
            yield from self._unfold(events, entries)
        if self._missing and entries is not None:
            yield self._batch(no_events(), entries, Taken(0, 0, 0))
        self.condition.is_known = True

    def _decoded(self) -> Iterator[tuple[EventArray, Frame]]:
        """
        Every frame, decoded. While one is folded a thread decompresses the next, where that has been read already: a pipe is not waited
        for. The thread does nothing else, since decompression alone leaves the interpreter to others.
        """
        with ThreadPoolExecutor(1, "decompress") as thread:
            ahead: deque[tuple[SoundFrame, Future[Decompressed]]] = deque()
            for frame in self._frames():
                ahead.append((frame, thread.submit(self._decompress, frame)))
                while ahead and (len(ahead) > 1 or not self._reader.is_next_here):
                    yield self._decode(*ahead.popleft())
            while ahead:
                yield self._decode(*ahead.popleft())

    def _frames(self) -> Iterator[SoundFrame]:
        while self._held:
            yield self._held.pop()
        for stretch in self._stretches:
            if isinstance(stretch, SoundFrame):
                yield stretch
            else:
                self._note(stretch)

    def _note(self, stretch: Damage | CutOff | EndMark) -> None:
        if isinstance(stretch, Damage):
            self.condition.damage.append(stretch)
        elif isinstance(stretch, CutOff):
            self.condition.cut_bytes = stretch.length

    def _decompress(self, frame: SoundFrame) -> Decompressed:
        """
        The record batch and the metadata of a frame, which is known to be as it was written.

        Raises:
            RecordingError: another recording begins here, or another version wrote it.
        """
        if first_schema_metadata(frame.data) is not None:
            raise RecordingError(f"another recording begins in {self._name} at byte {frame.position}", "keep each in a file of its own")
        with self._telling(frame), pa.ipc.open_stream(pa.py_buffer(self._beginning + frame.data), options=READ_OPTIONS) as reader:
            batch, metadata = reader.read_next_batch_with_custom_metadata()
            return batch, metadata[ENTRIES_KEY.encode()]

    def _decode(self, frame: SoundFrame, decompressing: Future[Decompressed]) -> tuple[EventArray, Frame]:
        batch, entries = decompressing.result()
        with self._telling(frame):
            return from_arrow(batch), unpack(entries)

    @contextmanager
    def _telling(self, frame: SoundFrame) -> Iterator[None]:
        """Says where the recording holds what cannot be decoded."""
        try:
            yield
        except (pa.ArrowException, msgspec.MsgspecError, ValueError, KeyError, zlib.error) as error:
            raise RecordingError(
                f"{self._name} holds at byte {frame.position} what this version cannot read: {error}",
                "read it with the version that wrote it",
            ) from error

    def _unfold(self, events: EventArray, frame: Frame) -> Iterator[EventBatch | Sample]:
        if self.next_event is not None:
            self._missing += frame.first_event - self.next_event
        self.next_event = frame.first_event + len(events)
        begin = 0
        for entry in frame.entries:
            if isinstance(entry, Sample):
                yield entry
            elif isinstance(entry, Ended):
                self.condition.ended = entry.reason
            else:
                yield self._batch(events[begin : begin + entry.events], frame, entry)
                begin += entry.events

    def _batch(self, events: EventArray, frame: Frame, taken: Taken) -> EventBatch:
        lost = taken.lost | ({DAMAGED: self._missing} if self._missing else {})
        self.condition.damaged_events += self._missing
        self._missing = 0
        batch = EventBatch(events, frame.now_ns + taken.now_ns, frame.wall_offset_ns + taken.wall_offset_ns, lost)
        self.condition.last_ns = batch.now_ns + batch.wall_offset_ns
        return batch


def first_schema_metadata(message: bytes) -> dict[bytes, bytes] | None:
    """The metadata of the stream, if the message is its schema."""
    found = pa.ipc.read_message(pa.py_buffer(message))
    if found.type != "schema":
        return None
    return pa.ipc.read_schema(found).metadata or {}
