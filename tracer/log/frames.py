# SPDX-License-Identifier: Apache-2.0
"""
The frames of a recording: how damage is found, and how reading goes on after it.

A frame is one message of an Arrow IPC stream: 4 bytes FF, 4 bytes length of its metadata, the metadata, the body. Ours carry a label in
their metadata, one line with the length of the whole frame and a CRC-32 of all its bytes (the digits of the CRC counted as zeros).
Nothing is decoded before its CRC is right, so damaged bytes never become wrong events; and since a label is found by looking for it,
the frames behind the damage are found wherever they begin.

Source: Arrow columnar format, "Encapsulated message format", https://arrow.apache.org/docs/format/Columnar.html.
"""

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

PREFIX: Final = b"\xff\xff\xff\xff"
END_OF_STREAM: Final = PREFIX + bytes(4)
#: The line breaks are what nothing else in the metadata has: the rest is JSON, where they are escaped, and our own descriptions.
MARKER: Final = b"\ntcptrace frame "
LABEL = re.compile(rb"\ntcptrace frame crc32 ([0-9a-f]{8}) length ([0-9a-f]{8})\n")
UNSEALED: Final = "\ntcptrace frame crc32 00000000 length 00000000\n"
CRC_OFFSET: Final = len("\ntcptrace frame crc32 ")
LENGTH_OFFSET: Final = CRC_OFFSET + 8 + len(" length ")
#: A frame has at most some 40,000 events of 120 bytes, and a sample of all sockets.
LONGEST: Final = 64 << 20
#: The label lies near the beginning of a frame: before it are only numbers of a few bytes for each column.
NEAR: Final = 64 << 10
READ_BYTES: Final = 1 << 20


class Readable(Protocol):
    def read(self, size: int, /) -> bytes | None: ...


@dataclass(frozen=True, slots=True)
class Stretch:
    """
    A part of the file.

    Attributes:
        position: where it begins, bytes from the beginning of the file.
        length: bytes.
    """

    position: int
    length: int


@dataclass(frozen=True, slots=True)
class SoundFrame(Stretch):
    """A whole frame, as it was written: *data* may be decoded."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Damage(Stretch):
    """Bytes that are no frame, with a frame or the end mark behind them."""


@dataclass(frozen=True, slots=True)
class CutOff(Stretch):
    """The file ends within a frame."""


@dataclass(frozen=True, slots=True)
class EndMark(Stretch):
    """The end of the stream."""


def seal(message: bytearray) -> None:
    """
    Writes the label of a message that carries UNSEALED.

    Raises:
        ValueError: it does not carry it, or is longer than LONGEST.
    """
    at = message.find(MARKER)
    if at < 0 or len(message) > LONGEST:
        raise ValueError(f"no label, or too long: {len(message)} bytes")
    message[at + LENGTH_OFFSET : at + LENGTH_OFFSET + 8] = b"%08x" % len(message)
    message[at + CRC_OFFSET : at + CRC_OFFSET + 8] = b"%08x" % zlib.crc32(message)


class FrameReader:
    """
    The frames of a stream, in order.

    Args:
        stream: a file or a pipe, at its beginning; read() may give less than asked for, and gives nothing at the end.
    """

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self._buffer = bytearray()
        self._position = 0

    def __iter__(self) -> Iterator[SoundFrame | Damage | CutOff | EndMark]:
        """Every byte of the file is part of exactly one stretch."""
        while self._has(1):
            length = self._sound_length(0)
            if length:
                position = self._position
                yield SoundFrame(position, length, self._take(length))
            elif self._is_end_mark():
                yield EndMark(self._position, len(self._take(8)))
            else:
                yield self._skip()

    @property
    def is_next_here(self) -> bool:
        """Whether the next frame has been read from the stream already, as far as its label tells."""
        found = LABEL.search(self._buffer, 8, NEAR)
        return found is not None and len(self._buffer) >= int(found[2], 16)

    def _is_end_mark(self) -> bool:
        return self._has(8) and self._buffer.startswith(END_OF_STREAM) and not self._has(9)

    def _skip(self) -> Damage | CutOff:
        """Leaves out what is no frame, up to the next sound frame, the end mark or the end."""
        begin, cut = self._position, self._is_cut()
        found = self._seek()
        stretch = CutOff if cut and not found else Damage
        return stretch(begin, self._position - begin)

    def _is_cut(self) -> bool:
        """Whether a frame begins here that the file is too short for."""
        if not self._has(8):
            return self._buffer.startswith(PREFIX[: len(self._buffer)])
        if not self._buffer.startswith(PREFIX):
            return False
        metadata = int.from_bytes(self._buffer[4:8], "little")
        if not self._has(8 + min(metadata, NEAR)):
            return True
        found = LABEL.search(self._buffer, 0, 8 + min(metadata, NEAR))
        return found is not None and not self._has(min(int(found[2], 16), LONGEST))

    def _seek(self) -> bool:
        """Drops bytes up to the next sound frame or a closing end mark, if there is one, else all."""
        start = 1
        while True:
            at = self._buffer.find(MARKER, start)
            if at < 0:
                self._drop(len(self._buffer) - NEAR)
                start = max(len(self._buffer) - len(MARKER), 1)
                if not self._has(len(self._buffer) + 1):
                    break
                continue
            begin = self._begin_of_frame(at)
            if begin > 0:
                self._drop(begin)
                return True
            start = at + 1
        closed = self._buffer.endswith(END_OF_STREAM)
        self._drop(len(self._buffer) - (8 if closed else 0))
        return closed

    def _begin_of_frame(self, label_at: int) -> int:
        """Where the sound frame begins that has its label at *label_at*, or -1."""
        limit = label_at
        while (begin := self._buffer.rfind(PREFIX, max(1, label_at - NEAR), limit)) > 0:
            if self._sound_length(begin):
                return begin
            limit = begin + len(PREFIX) - 1
        return -1

    def _sound_length(self, begin: int) -> int:
        """The length of the sound frame that begins there, or 0."""
        if not self._has(begin + 8) or not self._buffer.startswith(PREFIX, begin):
            return 0
        metadata = int.from_bytes(self._buffer[begin + 4 : begin + 8], "little")
        near = begin + 8 + min(metadata, NEAR)
        if not metadata or metadata > LONGEST or not self._has(near):
            return 0
        found = LABEL.search(self._buffer, begin + 8, near)
        length = int(found[2], 16) if found is not None else 0
        if found is None or not 8 + metadata <= length <= LONGEST or not self._has(begin + length):
            return 0
        return length if self._is_sound(begin, found.start() + CRC_OFFSET, begin + length, int(found[1], 16)) else 0

    def _is_sound(self, begin: int, crc_at: int, end: int, expected: int) -> bool:
        with memoryview(self._buffer) as view:
            crc = zlib.crc32(b"00000000", zlib.crc32(view[begin:crc_at]))
            return zlib.crc32(view[crc_at + 8 : end], crc) == expected

    def _has(self, size: int) -> bool:
        """Whether so many bytes are there, read as far as it takes."""
        while len(self._buffer) < size:
            data = self._stream.read(max(READ_BYTES, size - len(self._buffer)))
            if not data:
                return False
            self._buffer += data
        return True

    def _take(self, size: int) -> bytes:
        data = bytes(self._buffer[:size])
        self._drop(size)
        return data

    def _drop(self, size: int) -> None:
        if size > 0:
            del self._buffer[:size]
            self._position += size
