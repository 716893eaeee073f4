"""Raw sources: their columns with rules, and how parents join. Spark's types by name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pyspark.sql.types import StructType

NUMPY_OF_SPARK = {
    "boolean": "bool",
    "tinyint": "int8",
    "smallint": "int16",
    "int": "int32",
    "integer": "int32",
    "bigint": "int64",
    "long": "int64",
    "float": "float32",
    "double": "float64",
    "string": "str",
    "date": "datetime64[D]",
    "timestamp": "datetime64[us]",
}


# What a file of a source of format `images` is described by.
IMAGE_COLUMNS = {"file": "string", "folder": "string", "content": "binary"}


def numpy_dtype(spark_type: str) -> str:
    return NUMPY_OF_SPARK[spark_type.strip().lower()]


@dataclass(frozen=True)
class Column:
    """A raw column: its Spark SQL type and the rules its values keep.

    A text that does not parse as `type` refuses the row (`unparsable:NAME`). `of_label` marks a
    column known only once the label is: its rules do not apply in scoring.
    """

    name: str
    type: str
    nullable: bool = True
    min: float | None = None
    max: float | None = None
    allowed: tuple[str | int, ...] | None = None
    pattern: str | None = None
    of_label: bool = False


@dataclass(frozen=True)
class Source:
    """Raw files of one layout. `null_value` is the text that stands for a missing value.

    A source of format `images` has one row a file; its columns are those of `IMAGE_COLUMNS` that
    it declares: the name of the file, that of its folder, and the bytes.
    """

    name: str
    columns: tuple[Column, ...]
    format: Literal["csv", "images"] = "csv"
    delimiter: str = ","
    header: bool = True
    null_value: str = ""

    @cached_property
    def column_names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    def struct_type(self) -> StructType:
        """The columns with their declared types, as Spark's StructType."""
        return struct_type((c.name, c.type) for c in self.columns)


@dataclass(frozen=True)
class Join:
    """A parent source, unique on the join key, whose columns become `SOURCE.column` of the row.

    `on` pairs an expression over the row source with a column of the parent. A row without a
    parent has nulls there, or is refused (`no_parent:SOURCE`) when `required`.
    """

    source: str
    on: tuple[tuple[str, str], ...]
    required: bool = False


def struct_type(columns: Iterable[tuple[str, str]]) -> StructType:
    """Spark's StructType of (name, type) pairs; unlike Spark's DDL parser it needs no session."""
    from pyspark.sql import types

    classes: dict[str, types.DataType] = {
        "boolean": types.BooleanType(),
        "tinyint": types.ByteType(),
        "smallint": types.ShortType(),
        "int": types.IntegerType(),
        "integer": types.IntegerType(),
        "bigint": types.LongType(),
        "long": types.LongType(),
        "float": types.FloatType(),
        "double": types.DoubleType(),
        "string": types.StringType(),
        "binary": types.BinaryType(),
        "date": types.DateType(),
        "timestamp": types.TimestampType(),
        "array<float>": types.ArrayType(types.FloatType()),
        "array<string>": types.ArrayType(types.StringType()),
    }
    return types.StructType(
        [types.StructField(name, classes[type_.strip().lower()]) for name, type_ in columns]
    )
