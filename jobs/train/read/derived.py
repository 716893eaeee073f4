"""A declaration for others' files, from their columns and what a caller says of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from jobs.base.errors import ConfigError
from jobs.petastorm_arrow import CodecColumn
from schemas.checks import RESERVED
from schemas.dataset import Column, Dataset, Source
from schemas.field import (
    Categorical,
    CategoricalList,
    Field,
    Image,
    Label,
    Numeric,
    NumericList,
    Tensor,
    Weight,
)

Shaped = Tensor | Image | NumericList | CategoricalList


@dataclass(frozen=True)
class Roles:
    """What a caller says of columns; see `Folder.open`."""

    label: str | Label | None = None
    dense: Sequence[str] | None = None
    sparse: Sequence[str] = ()
    tensors: Sequence[Shaped] = ()
    weight: str | None = None
    key: str | None = None

    def label_field(self) -> Label:
        """Without a label the field names no column, and labels are NaN."""
        if isinstance(self.label, Label):
            return self.label
        return Label(*_named(self.label or "label"))

    def named(self) -> set[str]:
        """Columns that have a role besides that of a number."""
        label = self.label_field()
        several = [*self.sparse, *(column_of(field) for field in self.tensors)]
        return {column_of(label), *several, *filter(None, (self.weight, self.key))}


def column_of(field: Field) -> str:
    """The column of the files that a derived field is."""
    return field.expr or field.name


def derived(
    schema: pa.Schema, codecs: Mapping[str, CodecColumn], partitions: Sequence[str], roles: Roles
) -> Dataset:
    """The declaration: label, weight, dense, sparse, tensors; numbers in the files' order.

    Raises:
        ConfigError: a column that is not there, or no input at all.
    """
    there = {*schema.names, *partitions}
    asked = roles.named() | set(roles.dense or ())
    if roles.label is None:
        asked -= {column_of(roles.label_field())}
    if missing := sorted(asked - there):
        raise ConfigError(
            f"no column {', '.join(missing)} in the folder's files",
            f"some of {', '.join(sorted(there))}",
        )
    fields = [roles.label_field(), *([Weight(*_named(roles.weight))] if roles.weight else [])]
    fields += [Numeric(*_named(name)) for name in _dense(schema, roles)]
    fields += [Categorical(*_named(name)) for name in roles.sparse]
    fields += [*roles.tensors, *_tensors(schema, codecs, roles)]
    if len(fields) == 1 + (roles.weight is not None):
        raise ConfigError(
            "no column of the folder's files is an input",
            "dense, sparse or tensors",
            f"name some of {', '.join(sorted(there))}",
        )
    # Its files are read by their own schema: a source must only have a column.
    source = Source("folder", (Column("row", "string"),))
    return Dataset("folder", (source,), "folder", (), tuple(fields))


def _dense(schema: pa.Schema, roles: Roles) -> Sequence[str]:
    if roles.dense is not None:
        return roles.dense
    kinds = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_boolean)
    numbers = [column.name for column in schema if any(is_kind(column.type) for is_kind in kinds)]
    return [name for name in numbers if name not in roles.named()]


def _tensors(
    schema: pa.Schema, codecs: Mapping[str, CodecColumn], roles: Roles
) -> Iterator[Tensor | Image]:
    for column in schema:
        if column.name in roles.named():
            continue
        name, expr = _named(column.name)
        if (codec := codecs.get(column.name)) is not None:
            if codec.image and codec.shape:
                yield Image(name, expr, codec.shape, "png" if codec.format == "png" else "jpeg")
            elif codec.shape:
                yield Tensor(name, expr, codec.shape)
        elif pa.types.is_fixed_size_list(column.type):
            yield Tensor(name, expr, (column.type.list_size,))


def _named(column: str) -> tuple[str, str]:
    """Name and expression of a field: Millstream's own names get an underscore behind."""
    return (f"{column}_", column) if column in RESERVED else (column, "")
