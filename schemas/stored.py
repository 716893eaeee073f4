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
from schemas.source import Column, numpy_dtype, struct_type

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
    from pyspark.sql.pandas.types import to_arrow_schema

    stored = list(columns)
    fields = to_arrow_schema(struct_type((c.name, c.spark_type) for c in stored))
    for place, column in enumerate(stored):
        fields = fields.set(place, fields.field(place).with_nullable(column.nullable))
    return fields
