# SPDX-License-Identifier: Apache-2.0
"""Columns joined to lines of text, in the formats for programs."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, BinaryIO

import msgspec
import numpy as np
import numpy.typing as npt

from tracer.views.cells import Characters, Column, Mask, Words

#: Rows formatted at once: few enough that their text stays in the cache.
CHUNK = 2048


@dataclass(frozen=True, slots=True)
class Format:
    """
    How a line is written.

    Attributes:
        heading: what comes before the first line.
        before: what stands before each of the columns; *end* after the last.
        quote: what stands around a text that needs no escaping; *word* escapes one that may.
        absent: an absent value.
        record: a line of single values by name.
    """

    heading: bytes
    before: tuple[bytes, ...]
    end: bytes
    quote: bytes
    absent: bytes
    word: Callable[[str], bytes]
    record: Callable[[Mapping[str, Any]], bytes]


def json_lines(names: Sequence[str]) -> Format:
    """JSON Lines: one object a line."""
    first, *others = (msgspec.json.encode(name) + b":" for name in names)
    before = (b"{" + first, *(b"," + key for key in others))
    return Format(b"", before, b"}\n", b'"', b"null", msgspec.json.encode, lambda record: msgspec.json.encode(record) + b"\n")


def csv_lines(names: Sequence[str]) -> Format:
    """CSV with a heading; an absent value is an empty field."""
    before = (b"", *(b"," for _ in names[1:]))
    return Format(
        _csv_line(names), before, b"\n", b"", b"", lambda text: _csv_line([text])[:-1], lambda record: _csv_line([record[n] for n in names])
    )


def _csv_line(values: Sequence[Any]) -> bytes:
    text = io.StringIO()
    # The characters of the line's end are those that it quotes; a carriage return would end a line for many readers.
    csv.writer(text, lineterminator="\r\n").writerow(values)
    return text.getvalue()[:-2].encode() + b"\n"


FORMATS: Mapping[str, Callable[[Sequence[str]], Format]] = {"json": json_lines, "csv": csv_lines}


class Lines:
    """
    Writes columns of values, or single records, one line each.

    Args:
        stream: gets the bytes; the caller flushes.
        form: how to write them.
    """

    def __init__(self, stream: BinaryIO, form: Format) -> None:
        self._stream = stream
        self._form = form

    def begin(self) -> None:
        """Writes what comes before the first line."""
        self._stream.write(self._form.heading)

    def columns(self, columns: Sequence[Column]) -> None:
        """Writes one line for each row of the columns, which are in the order of the format's names."""
        matrices = [characters(column, self._form) for column in columns]
        for start in range(0, len(matrices[0]), CHUNK):
            self._stream.write(join([matrix[start : start + CHUNK] for matrix in matrices], self._form))

    def record(self, record: Mapping[str, Any]) -> None:
        """Writes one line, of values by name."""
        self._stream.write(self._form.record(record))


def characters(column: Column, form: Format) -> Characters:
    """A column's characters with what the format puts around them: shape (n, width)."""
    if isinstance(column, Words):
        encode = form.word if column.is_text else str.encode
        texts = _texts(encode, tuple(column.words), form.absent)[column.index]
        return texts.view(np.uint8).reshape(len(column.index), texts.itemsize)
    known = None if column.known is None or column.known.all() else column.known
    quote = form.quote if column.is_text else b""
    if known is None and not quote:
        return column.characters
    return _around(column.characters, quote, known, form.absent)


@lru_cache(maxsize=256)
def _texts(encode: Callable[[str], bytes], words: tuple[str, ...], absent: bytes) -> npt.NDArray[np.bytes_]:
    """The words as a format writes them, and last what it writes for none; most columns have the same ones each time."""
    return np.array([*map(encode, words), absent], dtype=np.bytes_)


def _around(inner: Characters, quote: bytes, known: Mask | None, absent: bytes) -> Characters:
    rows, width = inner.shape
    end = len(quote) + width
    matrix = np.zeros((rows, max(end + len(quote), len(absent))), dtype=np.uint8)
    matrix[:, len(quote) : end] = inner
    for place in (0, end):
        matrix[:, place : place + len(quote)] = np.frombuffer(quote, dtype=np.uint8)
    if known is not None:
        matrix[~known] = np.frombuffer(absent.ljust(matrix.shape[1], b"\0"), dtype=np.uint8)
    return matrix


def join(matrices: Sequence[Characters], form: Format) -> bytearray:
    """Lines from the columns' characters, each of shape (n, its width), without the NULs that pad them."""
    widths = [matrix.shape[1] for matrix in matrices]
    template = b"".join(before + bytes(width) for before, width in zip(form.before, widths, strict=True)) + form.end
    buffer = bytearray(len(matrices[0]) * len(template))
    lines = np.frombuffer(buffer, dtype=np.uint8).reshape(len(matrices[0]), len(template))
    lines[:] = np.frombuffer(template, dtype=np.uint8)
    place = 0
    for before, width, matrix in zip(form.before, widths, matrices, strict=True):
        place += len(before)
        lines[:, place : place + width] = matrix
        place += width
    return buffer.translate(None, b"\0")
