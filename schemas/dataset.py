"""A data set's declaration and what is derived from it.

One declaration says what the raw files hold (`Source`), how they join into rows (`Join`), which
rows are valid (rules on `Column`, the key) and what the examples and the model see (fields). The
Spark schemas, the stored columns (from which the Petastorm Unischema is made) and the model's
input sizes are read off it; nothing is inferred from data.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, is_dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from schemas.field import (
    Carried,
    Categorical,
    Field,
    Image,
    Label,
    Numeric,
    Tensor,
    Timestamp,
    Weight,
)

if TYPE_CHECKING:
    from pyspark.sql.types import StructType

F = TypeVar("F", bound=Field)

# Columns of the examples that Millstream itself adds.
ROW_ID = "row_id"
RESERVED = frozenset(
    {"ds", "split", "shard", ROW_ID, "raw", "source_file", "reasons", "score", "run_id"}
    | {"model_version"}
)


class DeclarationError(ValueError):
    """A declaration that contradicts itself; the message names the part and the remedy."""


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
    """Raw files of one layout. `null_value` is the text that stands for a missing value."""

    name: str
    columns: tuple[Column, ...]
    format: Literal["csv"] = "csv"
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


@dataclass(frozen=True)
class StoredColumn:
    """One column of an example shard: what Spark writes and what a tensor of it looks like."""

    name: str
    spark_type: str
    numpy_dtype: str
    shape: tuple[int, ...] = ()
    nullable: bool = False
    image_format: str | None = None


@dataclass(frozen=True)
class InputSizes:
    """Sizes of a model's inputs, apart from the vocabularies', which the state knows."""

    num_dense: int
    num_sparse: int
    tensor_shapes: dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Dataset:
    """A declaration. See `schemas/flights.py` for one in full.

    Attributes:
        name: folder of the data set in the lake.
        sources: the raw files; `rows` names the one whose rows become examples.
        ds: Spark SQL over the row source that gives the row's DATE; None when the date comes from
            the path (`{ds}` in the source's setting).
        key: raw columns that identify a row within a `ds`.
        entity: raw columns by whose hash rows are split; the key when empty.
        fields: what is stored and what the model sees, in the order of the tensors' columns.
    """

    name: str
    sources: tuple[Source, ...]
    rows: str
    key: tuple[str, ...]
    fields: tuple[Field, ...]
    ds: str | None = None
    entity: tuple[str, ...] = ()
    joins: tuple[Join, ...] = field(default=())

    def __post_init__(self) -> None:
        for problem in _problems(self):
            raise DeclarationError(f"declaration {self.name!r}: {problem}")

    # What the parts are

    def source(self, name: str) -> Source:
        return next(source for source in self.sources if source.name == name)

    @property
    def row_source(self) -> Source:
        return self.source(self.rows)

    @property
    def entity_columns(self) -> tuple[str, ...]:
        return self.entity or self.key

    def of_kind(self, kind: type[F]) -> tuple[F, ...]:
        return tuple(f for f in self.fields if isinstance(f, kind))

    @property
    def numeric(self) -> tuple[Numeric, ...]:
        """Columns of the dense matrix, in order."""
        return self.of_kind(Numeric)

    @property
    def categorical(self) -> tuple[Categorical, ...]:
        """Columns of the sparse matrix, in order."""
        return self.of_kind(Categorical)

    @property
    def label(self) -> Label:
        return self.of_kind(Label)[0]

    @property
    def weight(self) -> Weight | None:
        return next(iter(self.of_kind(Weight)), None)

    @property
    def tensors(self) -> tuple[Tensor | Image, ...]:
        return tuple(f for f in self.fields if isinstance(f, Tensor | Image))

    @cached_property
    def key_columns(self) -> tuple[Column, ...]:
        by_name = {column.name: column for column in self.row_source.columns}
        return tuple(by_name[name] for name in self.key)

    # Renderings

    def stored_columns(self) -> tuple[StoredColumn, ...]:
        """Columns of an example shard, in file order; `ds` and `split` are partitions."""
        return tuple(_stored_columns(self))

    def examples_schema(self) -> StructType:
        """The examples' columns with the partition columns, as Spark's StructType."""
        columns = [(c.name, c.spark_type) for c in self.stored_columns()]
        return struct_type([*columns, ("ds", "string"), ("split", "string")])

    def input_sizes(self) -> InputSizes:
        return InputSizes(
            num_dense=len(self.numeric),
            num_sparse=len(self.categorical),
            tensor_shapes={f.name: f.shape for f in self.tensors},
        )

    @cached_property
    def digest(self) -> str:
        """Hex digest of everything declared; two declarations that differ have different ones."""
        text = json.dumps(_plain(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @cached_property
    def field_digests(self) -> dict[str, str]:
        """Digest of each stored field's declaration, so that a refusal can name what changed."""
        return {
            f.name: hashlib.sha256(json.dumps(_plain(f), sort_keys=True).encode()).hexdigest()[:16]
            for f in self.fields
        }


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


def _plain(value: Any) -> Any:
    """Dataclasses to JSON values, with the kinds' names, so that equal text means equal meaning."""
    if is_dataclass(value) and not isinstance(value, type):
        parts = {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
        return {"kind": type(value).__name__, **parts}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


_NUMPY_OF_SPARK = {
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


def _numpy_dtype(spark_type: str) -> str:
    return _NUMPY_OF_SPARK[spark_type.strip().lower()]


def _stored_columns(dataset: Dataset) -> Iterator[StoredColumn]:
    yield StoredColumn(ROW_ID, "bigint", "int64")
    for column in dataset.key_columns:
        yield StoredColumn(column.name, column.type, _numpy_dtype(column.type))
    for f in dataset.fields:
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
                yield StoredColumn(f.name, f.type, _numpy_dtype(f.type), nullable=True)
            case Tensor():
                yield StoredColumn(f.name, "array<float>", "float32", shape=f.shape)
            case Image():
                yield StoredColumn(f.name, "binary", "uint8", shape=f.shape, image_format=f.format)


def _duplicates(names: Sequence[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})


def _problems(dataset: Dataset) -> Iterator[str]:
    """What contradicts itself, in words; nothing when the declaration is sound."""
    source_names = [source.name for source in dataset.sources]
    if repeated := _duplicates(source_names):
        yield f"sources named twice: {', '.join(repeated)}"
    if dataset.rows not in source_names:
        yield f"rows={dataset.rows!r} is no source; the sources are {', '.join(source_names)}"
        return
    yield from _source_problems(dataset)
    columns = dataset.row_source.column_names
    for role, names in (("key", dataset.key), ("entity", dataset.entity)):
        for name in names:
            if name not in columns:
                yield f"{role} column {name!r} is not in source {dataset.rows!r}"
    if not dataset.key:
        yield "no key; name the row source's columns that identify a row within a day"
    for join in dataset.joins:
        yield from _join_problems(dataset, join)
    yield from _field_problems(dataset)


def _source_problems(dataset: Dataset) -> Iterator[str]:
    for source in dataset.sources:
        if repeated := _duplicates(source.column_names):
            yield f"source {source.name!r} has columns twice: {', '.join(repeated)}"
        for column in source.columns:
            if column.type.strip().lower() not in _NUMPY_OF_SPARK:
                known = ", ".join(_NUMPY_OF_SPARK)
                place = f"{source.name}.{column.name}"
                yield f"column {place} has type {column.type!r}; known are {known}"


def _join_problems(dataset: Dataset, join: Join) -> Iterator[str]:
    names = {source.name for source in dataset.sources} - {dataset.rows}
    if join.source not in names:
        yield f"join with {join.source!r}, which is no other source"
        return
    if join.source in dataset.row_source.column_names:
        yield f"parent {join.source!r} is also a column of {dataset.rows!r}; rename the source"
    for _, parent_column in join.on:
        if parent_column not in dataset.source(join.source).column_names:
            yield f"join on {join.source}.{parent_column}, which is not declared"


def _field_problems(dataset: Dataset) -> Iterator[str]:
    names = [f.name for f in dataset.fields]
    if repeated := _duplicates([*names, *dataset.key]):
        yield f"fields named twice, or as a key column: {', '.join(repeated)}"
    if taken := sorted(RESERVED & {*names, *dataset.key}):
        yield f"fields named like Millstream's own columns: {', '.join(taken)}"
    if len(dataset.of_kind(Label)) != 1:
        yield f"{len(dataset.of_kind(Label))} labels; exactly one is needed"
    if len(dataset.of_kind(Weight)) > 1:
        yield "more than one weight"
    if not (dataset.numeric or dataset.categorical or dataset.tensors):
        yield "no numeric, categorical, tensor or image field: a model would see nothing"


__all__ = [
    "ROW_ID",
    "Column",
    "Dataset",
    "DeclarationError",
    "InputSizes",
    "Join",
    "Source",
    "StoredColumn",
    "struct_type",
]
