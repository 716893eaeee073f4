"""Types by their declared names, as Arrow has them."""

from __future__ import annotations

import pyarrow as pa

_ARROW = {
    "boolean": pa.bool_(),
    "tinyint": pa.int8(),
    "smallint": pa.int16(),
    "int": pa.int32(),
    "integer": pa.int32(),
    "bigint": pa.int64(),
    "long": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "string": pa.string(),
    "binary": pa.binary(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us"),
}


def arrow_type(name: str) -> pa.DataType:
    """Of a declared type."""
    return _ARROW[name.strip().lower()]
