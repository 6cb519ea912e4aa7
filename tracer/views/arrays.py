# SPDX-License-Identifier: Apache-2.0
"""NumPy columns as Arrow arrays."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tracer.views.cells import Words

Mask = npt.NDArray[np.bool_]

#: Names repeat.
TEXT = pa.dictionary(pa.int32(), pa.string())
WALL = pa.timestamp("ns", tz="UTC")


def numbers(values: npt.NDArray[np.generic], absent: Mask | None = None) -> pa.Array:
    """An array of the same type, null where *absent*."""
    return pa.array(np.ascontiguousarray(values), mask=absent if absent is not None and absent.any() else None)


def words(column: Words) -> pa.Array:
    """A column of texts out of a few as a dictionary."""
    index = pa.array(column.index.astype(np.int32), mask=column.index < 0)
    return pa.DictionaryArray.from_arrays(index, pa.array(list(column.words), pa.string()))


def texts_of(column: npt.NDArray[np.generic], text: Callable[[bytes], str], absent: Mask | None = None) -> pa.Array:
    """Fields of 16 bytes, shape (n,), as texts: each that occurs is turned into *text* once."""
    raw = pa.Array.from_buffers(pa.binary(16), len(column), [None, pa.py_buffer(np.ascontiguousarray(column))])
    encoded = pc.dictionary_encode(raw)
    texts = pa.array([text(packed) for packed in encoded.dictionary.to_pylist()], pa.string())
    codes = encoded.indices if absent is None or not absent.any() else pa.array(encoded.indices.to_numpy(), mask=absent)
    return pa.DictionaryArray.from_arrays(codes, texts)


def task_name(comm: bytes) -> str:
    """A task's name; bytes that are not UTF-8 stay visible as escapes."""
    return comm.rstrip(b"\0").decode(errors="backslashreplace")


def constant(text: str, count: int) -> pa.Array:
    """The same text *count* times."""
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, dtype=np.int32)), pa.array([text], pa.string()))


def wall_times(wall_ns: npt.NDArray[np.int64], absent: Mask | None = None) -> pa.Array:
    return numbers(wall_ns, absent).cast(WALL)
