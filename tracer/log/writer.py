# SPDX-License-Identifier: Apache-2.0
"""
From batches to the bytes of a recording: an Arrow IPC stream whose messages are sealed frames.

Small batches are put together into one record batch, since each costs two kilobytes of its own; where they ended is kept, so that a
replay folds the same ones. Nothing waits longer than FLUSH_NS, by the batches' own clock.
"""

import io
from collections.abc import Callable
from typing import Final, Literal

import msgspec
import pyarrow as pa

from tracer.events.batch import EventBatch
from tracer.events.records import join
from tracer.events.schema import EventArray, no_events
from tracer.log.entries import ENTRIES_KEY, Ended, Entry, Frame, RunInfo, Sample, Taken, pack, stream_metadata
from tracer.log.frames import END_OF_STREAM, UNSEALED, seal
from tracer.log.schema import log_schema, to_arrow

Compression = Literal["zstd", "lz4", "none"]
Put = Callable[[bytes], None]

#: Events of a record batch, give or take one batch: twice as many need 5 MB more, and half as many are slower to read, since a column
#: takes 20 us to decompress however short it is.
ROWS: Final = 8192
#: How long events may wait.
FLUSH_NS: Final = 1_000_000_000
#: How long may wait what has neither events nor losses in it: on a host at rest each write costs more than what it says.
IDLE_FLUSH_NS: Final = 10_000_000_000
#: 6 % less space than level 1 for the same time; higher ones cost more than they save.
ZSTD_LEVEL: Final = 3

#: The key of the label comes last, which puts it nearest to the beginning of the message.
LABEL_KEY: Final = "tcptrace_frame"


def write_options(compression: Compression) -> pa.ipc.IpcWriteOptions:
    codec = {"zstd": pa.Codec("zstd", ZSTD_LEVEL), "lz4": pa.Codec("lz4")}.get(compression)
    # Threads would spread the same work over the CPUs that the host has other work for.
    return pa.ipc.IpcWriteOptions(compression=codec, use_threads=False)


class StreamEncoder:
    """
    Makes the messages of one stream.

    Args:
        metadata: of the whole stream.
        compression: of the record batches' bodies.
    """

    def __init__(self, metadata: dict[str, str], compression: Compression) -> None:
        self._schema = log_schema(metadata | {LABEL_KEY: UNSEALED})
        self._bytes = io.BytesIO()
        self._writer = pa.ipc.new_stream(self._bytes, self._schema, options=write_options(compression))
        # The schema is written with the first batch; so that it can be sealed by itself, it is written here, and the batch dropped.
        self._writer.write_batch(to_arrow(no_events(), self._schema))
        self._bytes.seek(0)
        self._bytes.truncate()

    def beginning(self) -> bytes:
        """The first message: the schema."""
        message = bytearray(self._schema.serialize())
        seal(message)
        return bytes(message)

    def encode(self, events: EventArray, frame: bytes) -> bytes:
        """The message with these events, shape (n,), EVENT_DTYPE, and this metadata, as pack() makes it."""
        metadata = {ENTRIES_KEY: frame, LABEL_KEY: UNSEALED}
        self._writer.write_batch(to_arrow(events, self._schema), custom_metadata=metadata)
        return self._sealed()

    def _sealed(self) -> bytes:
        message = bytearray(self._bytes.getbuffer())
        self._bytes.seek(0)
        self._bytes.truncate()
        seal(message)
        return bytes(message)


class LogWriter:
    """
    Writes one file of a recording.

    Args:
        put: takes the bytes, in order.
        info: the run; written at once, and again with the first record batch, so that a damaged beginning loses nothing.
        compression: of the events.
        first_event: events in the files of the run before this one.
        idle_flush_ns: how long may wait what has neither events nor losses in it.

    Attributes:
        events: so far, those of the files before included; bytes: of this file.
    """

    def __init__(
        self, put: Put, info: RunInfo, compression: Compression = "zstd", first_event: int = 0, idle_flush_ns: int = IDLE_FLUSH_NS
    ) -> None:
        self._put = put
        self._idle_flush_ns = idle_flush_ns
        self._stream = StreamEncoder(stream_metadata(info), compression)
        self.events = first_event
        self.bytes = 0
        self._number = 0
        self._waiting: list[EventArray] = []
        self._entries: list[Entry] = []
        self._rows = 0
        self._base = (info.started_ns, info.wall_offset_ns)
        self._has_base = False
        self._notable = False
        self._write(self._stream.beginning())
        self.sample("run", msgspec.json.encode(info))

    def append(self, batch: EventBatch) -> None:
        """Adds a batch; writes what has waited long enough, or is enough."""
        if not self._has_base:
            self._base, self._has_base = (batch.now_ns, batch.wall_offset_ns), True
        now_ns, wall_offset_ns = self._base
        self._entries.append(Taken(len(batch), batch.now_ns - now_ns, batch.wall_offset_ns - wall_offset_ns, batch.lost))
        self._notable = self._notable or bool(len(batch) or batch.lost)
        if len(batch):
            self._waiting.append(batch.events)
            self._rows += len(batch)
        waited_ns = batch.now_ns - now_ns
        if self._rows >= ROWS or waited_ns >= (FLUSH_NS if self._notable else self._idle_flush_ns):
            self.flush()

    def sample(self, kind: str, content: bytes) -> None:
        """Adds something else that was observed, after the batches so far; *content* is anything that its reader understands."""
        self._entries.append(Sample(kind, content))

    def flush(self) -> None:
        """Writes what waits."""
        if not self._entries:
            return
        events = join(self._waiting) if self._waiting else no_events()
        frame = Frame(self._number, self.events, *self._base, self._entries)
        self._write(self._stream.encode(events, pack(frame)))
        self._number += 1
        self.events += len(events)
        self._waiting, self._entries, self._rows = [], [], 0
        self._notable = self._has_base = False

    def close(self, reason: str) -> None:
        """Ends the stream in good order; *reason* as in Ended."""
        self._entries.append(Ended(reason))
        self.flush()
        self._write(END_OF_STREAM)

    def _write(self, data: bytes) -> None:
        self._put(data)
        self.bytes += len(data)
