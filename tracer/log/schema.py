# SPDX-License-Identifier: Apache-2.0
"""
Events as Arrow record batches, and back.

Columns are the record's own bytes, so that turning a batch into Arrow copies each field once and computes nothing. Other programs read
them as they are: whole numbers, and 16 bytes for an address or a name.
"""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from tracer.events.schema import EVENT_DTYPE, EventArray
from tracer.log.columns import LOG_COLUMNS, LogColumn

#: Read as signed: the difference of two times, or a sum with the offset to wall time, is then no surprise in any other program.
SIGNED = frozenset({"ts_ns"})


def arrow_type(column: LogColumn) -> pa.DataType:
    """The Arrow type of a field of EVENT_DTYPE."""
    dtype = EVENT_DTYPE[column.name]
    if dtype.kind in "VS":
        return pa.binary(dtype.itemsize)
    return pa.int64() if column.name in SIGNED else pa.from_numpy_dtype(dtype)


def log_schema(metadata: Mapping[str, str]) -> pa.Schema:
    """The schema of a recording: every column with `unit` and `description`, and *metadata* of the whole stream."""
    fields = [pa.field(c.name, arrow_type(c), nullable=False, metadata={"unit": c.unit, "description": c.meaning}) for c in LOG_COLUMNS]
    return pa.schema(fields, metadata=dict(metadata))


def to_arrow(events: EventArray, schema: pa.Schema) -> pa.RecordBatch:
    """Events of shape (n,), EVENT_DTYPE, as a record batch of n rows that owns its memory."""
    arrays = []
    for field in schema:
        values = np.ascontiguousarray(events[field.name])
        arrays.append(pa.Array.from_buffers(field.type, len(events), [None, pa.py_buffer(values)]))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def from_arrow(batch: pa.RecordBatch) -> EventArray:
    """
    Shape (n,), EVENT_DTYPE, owned, from a record batch of n rows.

    A column that the batch does not have, as in a recording of an older version, is 0, which means that it is not known; one that is not
    an event's is left out.
    """
    events = np.zeros(batch.num_rows, dtype=EVENT_DTYPE)
    for column in LOG_COLUMNS:
        index = batch.schema.get_field_index(column.name)
        if index >= 0 and batch.num_rows:
            array = batch.column(index)
            _, data = array.buffers()
            dtype = EVENT_DTYPE[column.name]
            events[column.name] = np.frombuffer(data, dtype, count=len(array), offset=array.offset * dtype.itemsize)
    return events
