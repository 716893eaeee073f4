"""A data set's declaration and what is derived from it.

One declaration says what the raw files hold (`Source`), how they join into rows (`Join`), which
rows are valid (rules on `Column`, the key) and what the examples and the model see (fields). The
Spark schemas, the stored columns (from which the Petastorm Unischema is made) and the model's
input sizes are read off it; nothing is inferred from data.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, is_dataclass, replace
from dataclasses import fields as dataclass_fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

from schemas.checks import problems
from schemas.field import OF_TRAINING, Field
from schemas.parts import Parts
from schemas.source import Column, Join, Source, struct_type
from schemas.stored import ROW_ID, StoredColumn, stored_columns

if TYPE_CHECKING:
    from pyspark.sql.types import StructType

# What expressions are written in: the same text means something else in another language.
_LANGUAGE = {"expressions": "duckdb"}


class DeclarationError(ValueError):
    """A declaration that contradicts itself; the message names the part and the remedy."""


@dataclass(frozen=True)
class InputSizes:
    """Sizes of a model's inputs, apart from the vocabularies', which the state knows."""

    num_dense: int
    num_sparse: int
    tensor_shapes: dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Dataset(Parts):
    """A declaration. See `schemas/flights.py` for one in full, and `Parts` for what it is given.

    Raises:
        DeclarationError: the parts contradict each other.
    """

    def __post_init__(self) -> None:
        for problem in problems(self):
            raise DeclarationError(f"declaration {self.name!r}: {problem}")

    # Renderings

    def stored_columns(self) -> tuple[StoredColumn, ...]:
        """Columns of an example shard, in file order; `ds` and `split` are partitions."""
        return tuple(stored_columns(self.key_columns, self.fields))

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
        """Hex digest of all that the examples follow from: not of the expectations."""
        whole = _plain(replace(self, expectations=()))
        if self.ds is not None or self.joins or any(map(self._is_expression, self.fields)):
            whole |= _LANGUAGE
        return _digest(whole)

    @cached_property
    def field_digests(self) -> dict[str, str]:
        """Digest of each stored field's declaration, so that a refusal can name what changed."""
        return {
            f.name: _digest(_plain(f) | (_LANGUAGE if self._is_expression(f) else {}))
            for f in self.fields
        }

    def _is_expression(self, f: Field) -> bool:
        """Whether SQL makes the field's value: it is no column of the row source alone."""
        return bool(f.expr) and f.expr not in self.row_source.column_names


def _digest(plain: Any) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    """Dataclasses to JSON values, with the kinds' names, so that equal text means equal meaning.

    What is as by default is left out, so that an option that a release adds changes no digest, and
    what no example follows from.
    """
    if is_dataclass(value) and not isinstance(value, type):
        parts = {
            part.name: _plain(getattr(value, part.name))
            for part in dataclass_fields(value)
            if part.metadata != OF_TRAINING and getattr(value, part.name) != part.default
        }
        return {"kind": type(value).__name__, **parts}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


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
