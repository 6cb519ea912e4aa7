# SPDX-License-Identifier: Apache-2.0
"""
Columns of text, made and joined to lines by NumPy: formatting a value at a time in Python costs more than everything before it.

A column is a matrix of characters, one row a line. Texts of different lengths are padded with NULs, at either end or between; they are
taken out of the finished lines.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from tracer.events.addresses import V4_PREFIX, address_text

Characters: TypeAlias = npt.NDArray[np.uint8]
Mask: TypeAlias = npt.NDArray[np.bool_]

Scalar = TypeVar("Scalar", bound=np.generic)

NS = 1_000_000_000
#: Numbers are split into groups of four digits, which a table turns into text.
GROUP = 10_000


@dataclass(frozen=True, slots=True)
class Cells:
    """
    A column of texts that need no escaping in any format.

    Attributes:
        characters: shape (n, width), uint8.
        known: shape (n,), which rows have a value; None: all.
        is_text: JSON shows it in quotes.
    """

    characters: Characters
    known: Mask | None = None
    is_text: bool = False

    def where(self, known: Mask) -> "Cells":
        """The same, but without the values of the other rows: *known* of shape (n,)."""
        return Cells(self.characters, known if self.known is None else self.known & known, self.is_text)

    def texts(self) -> list[str | None]:
        """The values as text, one a row; None for an absent one."""
        rows = self.characters.tobytes()
        width = self.characters.shape[1]
        texts = [rows[i : i + width].replace(b"\0", b"").decode("ascii") for i in range(0, len(rows), width)]
        return list(texts) if self.known is None else [t if k else None for t, k in zip(texts, self.known.tolist(), strict=True)]


@dataclass(frozen=True, slots=True)
class Words:
    """
    A column of any texts out of a few.

    Attributes:
        words: each text that occurs.
        index: shape (n,), which of them a row has; -1: none.
        is_text: JSON shows them in quotes; else they are JSON.
    """

    words: Sequence[str]
    index: npt.NDArray[np.intp]
    is_text: bool = True

    def where(self, known: Mask) -> "Words":
        """The same, but without the values of the other rows: *known* of shape (n,)."""
        return Words(self.words, np.where(known, self.index, -1), self.is_text)

    def texts(self) -> list[str | None]:
        """The values as text, one a row; None for an absent one."""
        texts: list[str | None] = [*self.words, None]
        return [texts[i] for i in self.index.tolist()]


Column: TypeAlias = Cells | Words


def words_of(texts: Sequence[str | None]) -> Words:
    """A column from one text a row."""
    positions: dict[str, int] = {}
    index = [-1 if text is None else positions.setdefault(text, len(positions)) for text in texts]
    return Words(tuple(positions), np.array(index, dtype=np.intp))


def choices(names: Sequence[str | None], codes: npt.NDArray[np.integer]) -> Words:
    """A column of names by number; a name of None is an absent value."""
    places = np.array([-1 if name is None else i for i, name in enumerate(names)], dtype=np.intp)
    return Words([name or "" for name in names], places[codes])


@cache
def _group_texts(zero: str) -> npt.NDArray[np.uint32]:
    """
    Text of each group of digits: shape (2 * GROUP,).

    The first half has all four digits, for a group that others stand before; the second begins with the first digit that counts,
    where it says *zero* for 0.
    """
    groups = np.arange(GROUP)[:, np.newaxis]
    powers = np.array([1000, 100, 10, 1])
    padded = (groups // powers % 10 + ord("0")).astype(np.uint8)
    leading = np.where(groups >= powers, padded, np.uint8(0))
    leading[0, 3] = ord(zero or "\0")
    return np.concatenate([padded, leading]).view(np.uint32)[:, 0]


def integer_characters(values: npt.NDArray[np.integer]) -> Characters:
    """Non-negative integers, shape (n,), in decimal: shape (n, digits of the largest), right-aligned."""
    if not len(values):
        return np.empty((0, 1), dtype=np.uint8)
    largest = int(values.max())
    digits = len(str(largest))
    if int(values.min()) == largest:
        return np.broadcast_to(np.frombuffer(str(largest).encode(), dtype=np.uint8), (len(values), digits))
    if largest < len(_small_texts()):
        small: Characters = _small_texts()[values].view(np.uint8).reshape(-1, 8)[:, 8 - digits :]
        return small
    return _in_groups(values, digits)


@cache
def _small_texts() -> npt.NDArray[np.uint64]:
    """The numbers below 1 << 16, most of all ports, right-aligned."""
    texts = np.zeros((1 << 16, 8), dtype=np.uint8)
    texts[:, 3:] = _in_groups(np.arange(1 << 16), 5)
    return texts.view(np.uint64)[:, 0]


def _in_groups(values: npt.NDArray[np.integer], digits: int) -> Characters:
    """integer_characters(), by groups of digits."""
    groups = -(-digits // 4)
    largest = 10**digits - 1
    rest: npt.NDArray[Any] = values.astype(np.uint32 if largest < 1 << 32 else np.uint64)
    texts = np.empty((len(values), groups), dtype=np.uint32)
    for place in reversed(range(groups)):
        higher = rest // GROUP
        group = rest - higher * GROUP
        leads = (higher == 0) * np.uint32(GROUP)
        texts[:, place] = _group_texts("0" if place == groups - 1 else "")[group + leads]
        rest = higher
    return texts.view(np.uint8)[:, 4 * groups - digits :]


def integers(values: npt.NDArray[np.integer]) -> Cells:
    """Non-negative integers, shape (n,)."""
    return Cells(integer_characters(values))


@cache
def _fraction_texts() -> npt.NDArray[np.uint32]:
    """The point and what stands behind it, by thousandths: ".5" for 500, ".0" for none: shape (1000,)."""
    texts = (f"{n / 1000:.3f}"[1:].rstrip("0").ljust(2, "0") for n in range(1000))
    return np.frombuffer(b"".join(text.encode().ljust(4, b"\0") for text in texts), dtype=np.uint32)


def thousandths(values: npt.NDArray[np.integer]) -> Cells:
    """Non-negative numbers, shape (n,), given in thousandths: 1500 is 1.5, 2000 is 2.0."""
    whole = values // 1000
    fractions = _fraction_texts()[values - whole * 1000]
    return Cells(np.hstack([integer_characters(whole), fractions.view(np.uint8).reshape(-1, 4)]))


@cache
def _hex_texts() -> npt.NDArray[np.uint32]:
    """Numbers of 16 bits in four hexadecimal digits: shape (65536,)."""
    digits = np.frombuffer(b"0123456789abcdef", dtype=np.uint8)
    texts: npt.NDArray[np.uint32] = digits[np.arange(1 << 16)[:, np.newaxis] >> np.array([12, 8, 4, 0]) & 15].view(np.uint32)[:, 0]
    return texts


def kernel_addresses(values: npt.NDArray[np.uint64]) -> Cells:
    """Kernel addresses, shape (n,): 0xffff888003f2a440, always 16 digits."""
    texts = np.empty((len(values), 4), dtype=np.uint32)
    for place in range(4):
        texts[:, place] = _hex_texts()[(values >> np.uint64(16 * (3 - place))).astype(np.uint16)]
    prefix = np.frombuffer(b"0x", dtype=np.uint8)
    return Cells(np.hstack([np.broadcast_to(prefix, (len(values), 2)), texts.view(np.uint8)]), is_text=True)


def _second_texts(seconds: npt.NDArray[np.int64]) -> npt.NDArray[np.bytes_]:
    return np.datetime_as_string(seconds.view("datetime64[s]")).astype("S19")


def wall_times(ts_ns: npt.NDArray[np.uint64], wall_offset_ns: int) -> Cells:
    """Monotonic times, shape (n,), as wall time, RFC 3339, UTC, nanoseconds."""
    wall = ts_ns.astype(np.int64) + wall_offset_ns
    seconds = wall // NS
    nanoseconds = (wall - seconds * NS).astype(np.uint32)
    different, index = distinct(seconds)
    frames = np.char.add(_second_texts(different), b".000000000Z").view(np.uint8).reshape(-1, 30)
    characters = np.empty((len(wall), 30), dtype=np.uint8)
    characters[:] = frames if len(different) == 1 else frames[index]
    high = nanoseconds // GROUP
    first = high // GROUP
    characters[:, 20] = first + ord("0")
    padded = _group_texts("0")
    characters[:, 21:25] = padded[high - first * GROUP].view(np.uint8).reshape(-1, 4)
    characters[:, 25:29] = padded[nanoseconds - high * GROUP].view(np.uint8).reshape(-1, 4)
    return Cells(characters, is_text=True)


def distinct(values: npt.NDArray[Scalar]) -> tuple[npt.NDArray[Scalar], npt.NDArray[np.intp]]:
    """The values that occur, and for each row which of them it has; quick where all rows have the same."""
    if len(values) and (values == values[0]).all():
        return values[:1], np.zeros(len(values), dtype=np.intp)
    different, index = np.unique(values, return_inverse=True)
    return different, index


@cache
def _octet_texts(end: str) -> npt.NDArray[np.uint64]:
    """Two octets of an address, the first in the low byte, and what follows them: shape (65536,)."""
    octets = _group_texts("0")[GROUP : GROUP + 256].view(np.uint8).reshape(256, 4)[:, 1:]
    texts = np.zeros((256, 256, 8), dtype=np.uint8)
    texts[:, :, :3] = octets
    texts[:, :, 3] = ord(".")
    texts[:, :, 4:7] = octets[:, np.newaxis]
    texts[:, :, 7] = ord(end or "\0")
    return texts.reshape(1 << 16, 8).view(np.uint64)[:, 0]


def addresses(column: npt.NDArray[np.void]) -> Cells:
    """Addresses of 16 bytes, shape (n,); IPv4 in its own form."""
    raw = np.ascontiguousarray(column).view(np.uint8).reshape(-1, 16)
    if len(raw) and (column == column[0]).all():
        text = address_text(raw[0].tobytes()).encode()
        return Cells(np.broadcast_to(np.frombuffer(text, dtype=np.uint8), (len(raw), len(text))), is_text=True)
    prefixes = raw.view(np.uint32)[:, :3]
    if not (prefixes == np.frombuffer(V4_PREFIX, dtype=np.uint32)).all():
        return Cells(_any_addresses(raw), is_text=True)
    halves = raw.view(np.uint16)
    texts = np.empty((len(raw), 2), dtype=np.uint64)
    texts[:, 0] = _octet_texts(".")[halves[:, 6]]
    texts[:, 1] = _octet_texts("")[halves[:, 7]]
    return Cells(texts.view(np.uint8), is_text=True)


def _any_addresses(raw: Characters) -> Characters:
    packed = raw.tobytes()
    texts = np.array([address_text(packed[i : i + 16]) for i in range(0, len(packed), 16)], dtype=np.bytes_)
    return texts.view(np.uint8).reshape(len(raw), -1)


@cache
def _plain() -> bytes:
    """The characters that mean nothing in any format; NUL is padding."""
    return bytes(code for code in range(128) if not code or (chr(code).isprintable() and chr(code) not in '"\\,'))


def task_names(column: npt.NDArray[np.bytes_]) -> Column:
    """Names of tasks, shape (n,), S16; bytes that are not UTF-8 stay visible as escapes."""
    characters = np.ascontiguousarray(column).view(np.uint8).reshape(-1, column.dtype.itemsize)
    if not characters.tobytes().translate(None, _plain()):
        return Cells(characters, is_text=True)
    return words_of([name.decode(errors="backslashreplace") for name in column.tolist()])
