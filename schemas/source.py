"""Raw sources: their columns with rules, and how parents join. Types have Spark's names."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pyspark.sql.types import StructType

NUMPY_OF_TYPE = {
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

# A timestamp is a moment in UTC, without a time zone of its own.
DUCKDB_OF_TYPE = {
    "boolean": "BOOLEAN",
    "tinyint": "TINYINT",
    "smallint": "SMALLINT",
    "int": "INTEGER",
    "integer": "INTEGER",
    "bigint": "BIGINT",
    "long": "BIGINT",
    "float": "FLOAT",
    "double": "DOUBLE",
    "string": "VARCHAR",
    "binary": "BLOB",
    "date": "DATE",
    "timestamp": "TIMESTAMP",
}

# What a file of a source of format `images` is described by.
IMAGE_COLUMNS = {"file": "string", "folder": "string", "content": "binary"}


def numpy_dtype(type_: str) -> str:
    return NUMPY_OF_TYPE[type_.strip().lower()]


def duckdb_type(type_: str) -> str:
    return DUCKDB_OF_TYPE[type_.strip().lower()]


def quoted(name: str) -> str:
    """A name as DuckDB's SQL has it, whatever is in it."""
    return '"' + name.replace('"', '""') + '"'


def spark_name(column: str) -> str:
    """The name as Spark reads it: a dot is no way into a struct there."""
    return f"`{column.replace('`', '``')}`"


@dataclass(frozen=True)
class Column:
    """A raw column: its type, by Spark's name for it, and the rules its values keep.

    A text that does not parse as `type` refuses the row (`unparsable:NAME`). `pattern` is an RE2
    regular expression that is searched in the text, where `.` is no end of a line; ^ and $ are the
    text's ends. `of_label` marks a column known only once the label is: its rules do not apply in
    scoring, where files may lack it. `path` is where the value stands in nested data
    (`user.address.city`); empty means the name. `header` is the name in a CSV file's header, where
    that one is not fit for SQL (`Order ID`); empty means the name.
    """

    name: str
    type: str
    nullable: bool = True
    min: float | None = None
    max: float | None = None
    allowed: tuple[str | float | bool, ...] | None = None
    pattern: str | None = None
    of_label: bool = False
    path: str = ""
    header: str = ""

    @property
    def place(self) -> tuple[str, ...]:
        """Names of the nested fields that lead to the value."""
        return tuple(self.path.split(".")) if self.path else (self.name,)


@dataclass(frozen=True)
class Source:
    """Raw files of one layout, plain or compressed (.gz, .bz2, .zst, by the file's name).

    A row of csv or json is a line; blank lines are no rows. Parquet and ORC files must have just
    the declared columns; a key that a JSON line lacks is null, and further keys are not read.

    Attributes:
        format: csv (any delimiter), json (an object a line), parquet, orc; or images, one row a
            file, with those of `IMAGE_COLUMNS` that are declared: the name of the file, that of
            its folder, and the bytes.
        delimiter, header, null_value: of csv; `null_value` stands for a missing value.
        quote: of csv, around values that hold a delimiter; empty means no quoting.
        escape: of csv, before a quote inside quotes: a backslash, or the quote itself, which is the
            same as empty.
        comment: of csv; a line that starts with it is no row.
        encoding: of csv and json, as Python names it. A line that is not in it is refused.
        multiline: of csv: quoted values may hold line ends; such files are read whole, by one task.
    """

    name: str
    columns: tuple[Column, ...]
    format: Literal["csv", "json", "parquet", "orc", "images"] = "csv"
    delimiter: str = ","
    header: bool = True
    null_value: str = ""
    quote: str = '"'
    escape: str = ""
    comment: str = ""
    encoding: str = "utf-8"
    multiline: bool = False

    def __post_init__(self) -> None:
        if self.escape == self.quote:
            object.__setattr__(self, "escape", "")

    @cached_property
    def column_names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    @cached_property
    def header_names(self) -> tuple[str, ...]:
        """As the header of a CSV file has them."""
        return tuple(column.header or column.name for column in self.columns)

    def without(self, names: Collection[str]) -> Source:
        """The source of files that have not these columns."""
        kept = tuple(column for column in self.columns if column.name not in names)
        return replace(self, columns=kept) if names else self

    def struct_type(self) -> StructType:
        """The columns with their declared types, as Spark's StructType."""
        return struct_type((c.name, c.type) for c in self.columns)


@dataclass(frozen=True)
class Join:
    """A parent source, unique on the join key, whose columns become `SOURCE.column` of the row.

    `on` pairs DuckDB's SQL over the row source alone with a column of the parent. A row without a
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
        "array<int>": types.ArrayType(types.IntegerType()),
        "array<string>": types.ArrayType(types.StringType()),
    }
    return types.StructType(
        [types.StructField(name, classes[type_.strip().lower()]) for name, type_ in columns]
    )
