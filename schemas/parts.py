"""The parts of a declaration, by their kinds. `schemas/checks.py` says whether they fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

from schemas.expect import Expectation
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
    WithIds,
)
from schemas.source import Column, Join, Source

F = TypeVar("F", bound=Field)


@dataclass(frozen=True)
class Parts:
    """What a declaration is given.

    Attributes:
        name: folder of the data set in the lake.
        sources: the raw files; `rows` names the one whose rows become examples.
        ds: DuckDB's SQL over the row source alone that gives the row's DATE; None when the date
            comes from the path (`{ds}` in the source's setting).
        key: raw columns that identify a row within a `ds`. When empty, rows are identified by
            their raw line and its ordinal among the identical lines of the `ds`.
        entity: raw columns by whose hash rows are split; the key when empty, and the raw line
            when that is empty too, so that identical lines fall into one split.
        fields: what is stored and what the model sees, in the order of the tensors' columns.
        expectations: what a date as a whole must keep; they may change from run to run.
    """

    name: str
    sources: tuple[Source, ...]
    rows: str
    key: tuple[str, ...]
    fields: tuple[Field, ...]
    ds: str | None = None
    entity: tuple[str, ...] = ()
    joins: tuple[Join, ...] = field(default=())
    expectations: tuple[Expectation, ...] = ()

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
    def measured(self) -> tuple[Numeric | NumericList, ...]:
        """Fields with numbers that have statistics."""
        return self.numeric + self.of_kind(NumericList)

    @property
    def with_ids(self) -> tuple[WithIds, ...]:
        """Fields with values that have ids."""
        return self.of_kind(WithIds)

    @property
    def counted(self) -> tuple[WithIds, ...]:
        """Those with a vocabulary."""
        return tuple(f for f in self.with_ids if f.max_size)

    @property
    def lists(self) -> tuple[NumericList | CategoricalList, ...]:
        return tuple(f for f in self.fields if isinstance(f, NumericList | CategoricalList))

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the fields that a model sees, in the declaration's order."""
        kinds = (Numeric, Categorical, Tensor, Image, NumericList, CategoricalList)
        return tuple(f.name for f in self.fields if isinstance(f, kinds))

    def inputs_without(self, left_out: Sequence[str]) -> tuple[str, ...]:
        """`inputs` that are not left out."""
        return tuple(name for name in self.inputs if name not in left_out)

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
