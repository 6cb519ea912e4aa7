# SPDX-License-Identifier: Apache-2.0
"""
What a recording holds beside events: where each batch ended, what was lost before it, and samples of other kinds.

Entries travel with the events, in the metadata of the record batch that holds them, in the order in which they happened; so a replay
folds the same batches, and meets each sample at the same place.
"""

import base64
import zlib
from typing import Any

import msgspec

#: The format of recordings that this version writes, and the newest that it reads.
FORMAT = 1

#: The key of a record batch's metadata that has the frame.
ENTRIES_KEY = "tcptrace_entries"


class RunInfo(msgspec.Struct, frozen=True, kw_only=True):
    """
    The run that was recorded; each field is also an entry of the stream's metadata, as JSON.

    Attributes:
        format: of the recording.
        version: of tcptrace.
        host, kernel, boot_id: of the recorded host.
        started_ns: CLOCK_MONOTONIC when the capture began.
        wall_offset_ns: wall time minus CLOCK_MONOTONIC then; batches carry later ones.
        hooks, facts, keep: of the capture, as those who read the recording know them: what was attached, what the host has, the filter.
        ring_bytes: size of the ring.
        command_line: of tcptrace.
        part: number of this file, for one that follows another by rotation.
    """

    format: int
    version: str
    host: str
    kernel: str
    boot_id: str
    started_ns: int
    wall_offset_ns: int
    hooks: list[dict[str, Any]]
    facts: dict[str, Any]
    keep: dict[str, Any]
    ring_bytes: int
    command_line: list[str]
    part: int = 1


class Taken(msgspec.Struct, frozen=True, array_like=True, tag="b"):
    """A batch ends here: its number of events, what its times are beyond those of the frame, and its losses by reason."""

    events: int
    now_ns: int
    wall_offset_ns: int
    lost: dict[str, int] = {}


class Sample(msgspec.Struct, frozen=True, array_like=True, tag="s"):
    """Something else that was observed at this place: its kind, and its content, opaque here."""

    kind: str
    content: bytes


class Ended(msgspec.Struct, frozen=True, array_like=True, tag="e"):
    """The recording ends here, in good order: "stopped", or "rotated" where another file follows."""

    reason: str


Entry = Taken | Sample | Ended


class Frame(msgspec.Struct, frozen=True):
    """
    The metadata of a record batch.

    Attributes:
        number: of the record batch in its file, from 0.
        first_event: how many events were recorded before it, in all files of the run.
        now_ns, wall_offset_ns: what its Taken entries are relative to.
        entries: in order; the events of each Taken follow each other in the record batch.
    """

    number: int
    first_event: int
    now_ns: int
    wall_offset_ns: int
    entries: list[Entry]


def pack(frame: Frame) -> bytes:
    """
    As the metadata of a record batch: MessagePack, compressed, since one sample of a kind is much like the next, as base64.

    Metadata are text, and some Arrow libraries refuse anything else.
    """
    return base64.b64encode(zlib.compress(_ENCODER.encode(frame)))


def unpack(packed: bytes) -> Frame:
    """
    The frame that was packed.

    Raises:
        ValueError, zlib.error, msgspec.MsgspecError: it was not.
    """
    return _DECODER.decode(zlib.decompress(base64.b64decode(packed, validate=True)))


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Frame)


def stream_metadata(info: RunInfo) -> dict[str, str]:
    """The metadata of the whole stream: every field of *info* as JSON."""
    fields: dict[str, Any] = msgspec.to_builtins(info)
    return {name: msgspec.json.encode(value).decode() for name, value in fields.items()}


def read_run_info(metadata: dict[bytes, bytes]) -> RunInfo:
    """
    The run from the metadata of the stream; fields that are not known are left out.

    Raises:
        msgspec.DecodeError, msgspec.ValidationError: it is not complete.
    """
    known = {name.encode() for name in RunInfo.__struct_fields__}
    values = {key.decode(): msgspec.json.decode(value) for key, value in metadata.items() if key in known}
    return msgspec.convert(values, RunInfo)
