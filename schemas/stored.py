"""The columns of an example shard, read off a declaration."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from schemas.field import (
    Carried,
    Categorical,
    CategoricalList,
    Field,
    Image,
    Label,
    Numeric,
    NumericList,
    Tensor,
    Timestamp,
    Weight,
)
from schemas.source import Column, numpy_dtype

if TYPE_CHECKING:
    import pyarrow as pa

ROW_ID = "row_id"


@dataclass(frozen=True)
class StoredColumn:
    """One column of an example shard: what Spark writes and what a tensor of it looks like.

    A length of None in `shape` differs from row to row.
    """

    name: str
    spark_type: str
    numpy_dtype: str
    shape: tuple[int | None, ...] = ()
    nullable: bool = False
    image_format: str | None = None


def stored_columns(key: Iterable[Column], fields: Iterable[Field]) -> Iterator[StoredColumn]:
    """The row's id, the columns of the key, and the fields, in this order."""
    yield StoredColumn(ROW_ID, "bigint", "int64")
    for column in key:
        yield StoredColumn(column.name, column.type, numpy_dtype(column.type))
    for f in fields:
        match f:
            case Numeric():
                yield StoredColumn(f.name, "float", "float32", nullable=True)
            case Categorical():
                yield StoredColumn(f.name, "int", "int32")
            case Label() | Weight():
                yield StoredColumn(f.name, "float", "float32")
            case Timestamp():
                yield StoredColumn(f.name, "timestamp", "datetime64[us]", nullable=True)
            case Carried():
                yield StoredColumn(f.name, f.type, numpy_dtype(f.type), nullable=True)
            case Tensor():
                yield StoredColumn(f.name, "array<float>", "float32", shape=f.shape)
            case NumericList():
                yield StoredColumn(f.name, "array<float>", "float32", shape=(None,))
            case CategoricalList():
                yield StoredColumn(f.name, "array<int>", "int32", shape=(None,))
            case Image():
                yield StoredColumn(f.name, "binary", "uint8", shape=f.shape, image_format=f.format)


def arrow_schema(columns: Iterable[StoredColumn]) -> pa.Schema:
    """Of the files: a column that is never null says so, which spares readers its nulls."""
    import pyarrow as pa

    texts = {"boolean": "bool", "string": "string", "binary": "binary", "date": "date32[day]"}
    numbers = {"tinyint": "int8", "smallint": "int16", "int": "int32", "integer": "int32"}
    numbers |= {"bigint": "int64", "long": "int64", "float": "float", "double": "double"}
    types = {name: pa.type_for_alias(alias) for name, alias in (texts | numbers).items()}
    # As Spark names and marks them.
    types["timestamp"] = pa.timestamp("us", tz="UTC")
    for element in ("float", "int"):
        types[f"array<{element}>"] = pa.list_(pa.field("element", types[element]))
    return pa.schema(
        pa.field(c.name, types[c.spark_type.strip().lower()], c.nullable) for c in columns
    )
