"""Batches: named tensors, and the one conversion from Arrow to tensors that all readers use.

A row is a record of 4-byte words: its id, label, weight, numbers, ids and tensors side by side. So
shuffling moves each row once, whatever its columns, and a batch is cut from one matrix.

Shapes: b rows of a batch, n rows of an Arrow batch, W words of a row, D numeric and C categorical
fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from jobs.base.errors import ConfigError, DataRefused
from jobs.batch.batch import Batch as Batch
from jobs.batch.builder import WORD, Allocate, BatchBuilder, WordRange
from jobs.batch.columns import arrow_type, as_type, values
from jobs.batch.tensors import Codec, tensor_codecs
from jobs.batch.tensors import Words as Words
from schemas.dataset import ROW_ID, Dataset

# Position of a padding row, which no real row has.
NO_POSITION = -1


class Layout:
    """How the rows of a data set lie in words, and how words become batches.

    Args:
        dataset: the declaration.
        columns: fields that become inputs, in the declaration's order; all when None.
        with_label: False where the rows have no label (scoring): their labels are NaN. No weight is
            read then, which may follow from the label; it is 1.

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
        self._weight = dataset.weight.name if dataset.weight and with_label else None
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
        return self.words * WORD

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
        """
        batch = self.builder(position)
        batch.fill(0, words)
        return batch.build()

    def builder(self, position: npt.NDArray[np.int64], empty: Allocate = np.empty) -> BatchBuilder:
        """A batch of rows at these positions, int64 [b], to be filled.

        Args:
            empty: gives the memory of the batch's columns.
        """
        end_sparse = self._first_sparse + len(self._sparse)
        dense = WordRange(slice(self._first_dense, self._first_sparse), np.float32, np.float32)
        sparse = WordRange(slice(self._first_sparse, end_sparse), np.int32, np.int64)
        tensors = [(WordRange(place, np.int32, np.int32), codec) for place, codec in self._tensors]
        parts = {
            "row_id": WordRange(slice(0, 2), np.int64, np.int64),
            "label": self._scalar(self._label),
            "weight": self._scalar(self._weight),
            "dense": dense,
            "sparse": sparse,
        }
        return BatchBuilder(position, parts, tensors, empty)

    def padding(self) -> Batch:
        """A batch of one padding row."""
        row = self.batch(np.zeros((1, self.words), np.int32), np.full(1, NO_POSITION, np.int64))
        zero = torch.zeros(1)
        return replace(row, label=zero, weight=zero, is_row=torch.zeros(1, dtype=torch.bool))

    def _scalar(self, name: str | None) -> WordRange | None:
        if name is None:
            return None
        word = self._columns[name]
        return WordRange(slice(word, word + 1), np.float32, np.float32)


def items(words: Words) -> npt.NDArray[np.void]:
    """Rows, int32 [..., W], as single items, which are copied whole instead of word by word."""
    return words.view(np.dtype((np.void, WORD * words.shape[-1])))[..., 0]


def batch_from_arrow(
    rows: pa.Table | pa.RecordBatch,
    dataset: Dataset,
    with_label: bool = True,
    columns: Sequence[str] | None = None,
) -> Batch:
    """Encoded rows as a batch, in their order, by the conversion that training uses.

    Args:
        rows: the stored columns (further ones are ignored).
        dataset: their declaration.
        with_label: False in scoring: labels are NaN, weights 1, and no column of them is needed.
        columns: fields that become inputs; all when None.

    Raises:
        DataRefused: see `Layout.encode`.
    """
    layout = Layout(dataset, columns, with_label)
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_batches([rows])
    batch, first = layout.builder(np.arange(table.num_rows)), 0
    for part in table.to_batches():
        batch.fill(first, layout.encode(part))
        first += part.num_rows
    return batch.build()


def _wanted(dataset: Dataset, columns: Sequence[str] | None) -> set[str]:
    inputs = dataset.inputs
    # They are read in any case.
    others = {f.name for f in (dataset.label, dataset.weight) if f is not None}
    for name in columns or ():
        if name not in inputs and name not in others:
            raise ConfigError(f"column {name!r} is no input", f"some of {', '.join(inputs)}")
    return set(inputs if columns is None else columns)
