"""Batches: named tensors, and the one conversion from Arrow to tensors that all readers use.

A row is a record of 4-byte words: its id, label, weight, numbers, ids and tensors side by side. So
shuffling moves each row once, whatever its columns, and a batch is cut from one matrix.

Shapes: b rows of a batch, n rows of an Arrow batch, W words of a row, D numeric and C categorical
fields.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from jobs.errors import ConfigError, DataRefused
from jobs.train.columns import arrow_type, as_type, values
from jobs.train.tensors import Codec, tensor_codecs
from jobs.train.tensors import Words as Words
from schemas.dataset import ROW_ID, Dataset
from schemas.field import (
    Categorical,
    CategoricalList,
    Image,
    Label,
    Numeric,
    NumericList,
    Tensor,
    Weight,
)

# As np.empty: memory for an array of a shape and type.
Allocate = Callable[[tuple[int, ...], npt.DTypeLike], npt.NDArray[Any]]

# Position of a padding row, which no real row has.
NO_POSITION = -1

_WORD = 4
_INPUTS = (Label, Weight, Numeric, Categorical, Tensor, Image, NumericList, CategoricalList)


@dataclass(frozen=True)
class Batch:
    """One rank's piece of a global batch. Padding rows are zeros, of weight 0.

    Attributes:
        dense: float32 [b, D]; NaN where a value is missing.
        sparse: int64 [b, C], ids.
        label: float32 [b]; NaN where it is absent, as in scoring.
        weight: float32 [b]; 1 where the data set declares none.
        row_id: int64 [b].
        is_row: bool [b]; False marks padding.
        position: int64 [b], number of the row in the epoch; -1 for padding.
        tensors: by field name, [b, ...]: float32 of Tensor fields, uint8 of Image fields. A list
            field has two, with zeros behind a list's end: NAME, [b, longest list], float32 or, of a
            CategoricalList, int64; and NAME_length, int64 [b].
    """

    dense: torch.Tensor
    sparse: torch.Tensor
    label: torch.Tensor
    weight: torch.Tensor
    row_id: torch.Tensor
    is_row: torch.Tensor
    position: torch.Tensor
    tensors: dict[str, torch.Tensor]

    def __len__(self) -> int:
        return len(self.row_id)

    @property
    def rows(self) -> int:
        """Rows that are not padding."""
        return int(self.is_row.sum())

    def to(self, device: torch.device | str) -> Batch:
        """The batch on a device; the copy from pinned memory does not wait."""
        return self._mapped(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> Batch:
        """The batch in page-locked memory, from which a GPU copies while it computes."""
        return self._mapped(lambda tensor: tensor.pin_memory())

    def __getitem__(self, rows: slice) -> Batch:
        return self._mapped(lambda tensor: tensor[rows])

    def _mapped(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        names = ("dense", "sparse", "label", "weight", "row_id", "is_row", "position")
        changed: dict[str, Any] = {name: change(getattr(self, name)) for name in names}
        tensors = {name: change(tensor) for name, tensor in self.tensors.items()}
        return Batch(**changed, tensors=tensors)


class Layout:
    """How the rows of a data set lie in words, and how words become batches.

    Args:
        dataset: the declaration.
        columns: fields that become inputs, in the declaration's order; all when None.
        with_label: False where the rows have no label (scoring): their labels are NaN.

    Raises:
        ConfigError: `columns` names what is no input.
    """

    def __init__(
        self, dataset: Dataset, columns: Sequence[str] | None = None, with_label: bool = True
    ) -> None:
        self.dataset, self.with_label = dataset, with_label
        wanted = _wanted(dataset, columns)
        self._dense = [f.name for f in dataset.numeric if f.name in wanted]
        self._sparse = [f.name for f in dataset.categorical if f.name in wanted]
        self._label = dataset.label.name if with_label else None
        self._weight = dataset.weight.name if dataset.weight else None
        scalars = [self._label, self._weight, *self._dense, *self._sparse]
        self._columns = {name: place for place, name in enumerate(filter(None, scalars), start=2)}
        self._first_dense = 2 + (self._label is not None) + (self._weight is not None)
        self._first_sparse = self._first_dense + len(self._dense)
        self._tensors, self.words = self._tensor_places(wanted)
        self._types = {c.name: arrow_type(c.spark_type) for c in dataset.stored_columns()}
        self._nullable = set(self._dense)

    def _tensor_places(self, wanted: set[str]) -> tuple[list[tuple[slice, Codec]], int]:
        places, first = [], self._first_sparse + len(self._sparse)
        for codec in tensor_codecs(self.dataset):
            if codec.name in wanted:
                places.append((slice(first, first + codec.words), codec))
                first += codec.words
        return places, first

    @property
    def columns(self) -> list[str]:
        """Stored columns that are read."""
        return [ROW_ID, *self._columns, *(codec.name for _, codec in self._tensors)]

    @property
    def row_bytes(self) -> int:
        return self.words * _WORD

    # Arrow to words

    def encode(self, rows: pa.RecordBatch) -> Words:
        """Rows as words, int32 [n, W].

        Raises:
            DataRefused: see `parts`.
        """
        words = np.empty((rows.num_rows, self.words), np.int32)
        for place, part in self.parts(rows):
            words[:, place] = part
        return words

    def parts(self, rows: pa.RecordBatch) -> list[tuple[slice, Words]]:
        """Rows as words column by column, not yet side by side.

        Args:
            rows: n rows with at least `columns`.

        Returns:
            For each column its words, and which of a row they are, int32 [n, w].

        Raises:
            DataRefused: a column is missing, of another type, or null where none may be.
        """
        row_id = values(self._column(rows, ROW_ID)).view(np.int32).reshape(-1, 2)
        parts = [(slice(0, 2), row_id)]
        for name, word in self._columns.items():
            column = values(self._column(rows, name)).view(np.int32)
            parts.append((slice(word, word + 1), column[:, None]))
        for place, codec in self._tensors:
            parts.append((place, codec.encode(self._column(rows, codec.name))))
        return parts

    def _column(self, rows: pa.RecordBatch, name: str) -> pa.Array:
        index = rows.schema.get_field_index(name)
        if index < 0:
            found = ", ".join(rows.schema.names)
            raise DataRefused(f"no column {name!r} among {found}", "the declaration's columns")
        column = rows.column(index)
        if column.null_count and name not in self._nullable:
            raise DataRefused(f"column {name!r} has {column.null_count} nulls", "none")
        if column.type != self._types[name]:
            column = as_type(column, name, self._types[name])
        return column

    # Words to batches

    def batch(
        self, words: Words, position: npt.NDArray[np.int64], empty: Allocate = np.empty
    ) -> Batch:
        """Rows in words as a batch without padding.

        Args:
            words: int32 [b, W]; may be a view, the batch shares no memory with it.
            position: int64 [b].
            empty: gives the memory of the batch's columns.
        """
        first_sparse, end_sparse = self._first_sparse, self._first_sparse + len(self._sparse)
        # By NumPy, since torch takes no rows whose bytes are no multiple of an id's.
        row_id = empty((len(words),), np.int64)
        row_id[:] = words[:, :2].view(np.int64)[:, 0]
        return Batch(
            dense=_copied(words[:, self._first_dense : first_sparse].view(np.float32), empty),
            sparse=_copied(words[:, first_sparse:end_sparse], empty, np.int64),
            label=self._scalar(words, self._label, math.nan, empty),
            weight=self._scalar(words, self._weight, 1.0, empty),
            row_id=torch.from_numpy(row_id),
            is_row=torch.ones(len(words), dtype=torch.bool),
            position=torch.from_numpy(position),
            tensors={
                name: tensor
                for place, codec in self._tensors
                for name, tensor in codec.tensors(words[:, place]).items()
            },
        )

    def padding(self) -> Batch:
        """A batch of one padding row."""
        row = self.batch(np.zeros((1, self.words), np.int32), np.full(1, NO_POSITION, np.int64))
        zero = torch.zeros(1)
        return replace(row, label=zero, weight=zero, is_row=torch.zeros(1, dtype=torch.bool))

    def _scalar(
        self, words: Words, name: str | None, absent: float, empty: Allocate
    ) -> torch.Tensor:
        if name is None:
            return torch.full((len(words),), absent)
        return _copied(words[:, self._columns[name]].view(np.float32), empty)


def items(words: Words) -> npt.NDArray[np.void]:
    """Rows, int32 [..., W], as single items, which are copied whole instead of word by word."""
    return words.view(np.dtype((np.void, _WORD * words.shape[-1])))[..., 0]


def batch_from_arrow(
    rows: pa.Table | pa.RecordBatch, dataset: Dataset, with_label: bool = True
) -> Batch:
    """Encoded rows as a batch, in their order, by the conversion that training uses.

    Args:
        rows: the stored columns (further ones are ignored).
        dataset: their declaration.
        with_label: False in scoring: labels are NaN, and no label column is needed.

    Raises:
        DataRefused: see `Layout.encode`.
    """
    layout = Layout(dataset, with_label=with_label)
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_batches([rows])
    parts = [layout.encode(part) for part in table.to_batches()]
    words = np.concatenate(parts) if parts else np.empty((0, layout.words), np.int32)
    return layout.batch(words, np.arange(len(words), dtype=np.int64))


def _wanted(dataset: Dataset, columns: Sequence[str] | None) -> set[str]:
    inputs = [f.name for f in dataset.fields if isinstance(f, _INPUTS)]
    for name in columns or ():
        if name not in inputs:
            raise ConfigError(f"column {name!r} is no input", f"some of {', '.join(inputs)}")
    return set(inputs if columns is None else columns)


def _copied(
    values: npt.NDArray[Any], empty: Allocate, dtype: npt.DTypeLike | None = None
) -> torch.Tensor:
    """A contiguous copy, in memory that `empty` gives."""
    copied = torch.from_numpy(empty(values.shape, dtype or values.dtype))
    return copied.copy_(torch.from_numpy(values))
