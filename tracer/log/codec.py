# SPDX-License-Identifier: Apache-2.0
"""
Samples as bytes: any frozen dataclass or msgspec Struct of plain values and NumPy arrays, and back to the type that is asked for.

The log does not know what its samples mean; those who take them and those who fold them do.
"""

from typing import Any, TypeVar, get_origin

import msgspec
import numpy as np

T = TypeVar("T")


def encode(value: object) -> bytes:
    """MessagePack; an array as the description of its type, its shape and its bytes."""
    return _ENCODER.encode(value)


def decode(data: bytes, kind: type[T]) -> T:
    """
    The value that was encoded.

    Raises:
        msgspec.DecodeError, msgspec.ValidationError: it is not of that type.
    """
    return msgspec.msgpack.decode(data, type=kind, dec_hook=_read)


def _plain(value: object) -> Any:
    if isinstance(value, np.ndarray):
        layout = value.dtype.descr if value.dtype.names else value.dtype.str
        return [layout, value.shape, np.ascontiguousarray(value).tobytes()]
    if isinstance(value, np.generic):
        return value.item()
    raise NotImplementedError(f"cannot record a {type(value).__name__}")


def _read(kind: type, value: Any) -> Any:
    if (get_origin(kind) or kind) is not np.ndarray:
        raise NotImplementedError(f"cannot read a {kind}")
    layout, shape, data = value
    fields = layout if isinstance(layout, str) else [(name, form, *map(tuple, rest)) for name, form, *rest in layout]
    return np.frombuffer(data, dtype=np.dtype(fields)).reshape(shape).copy()


_ENCODER = msgspec.msgpack.Encoder(enc_hook=_plain)
