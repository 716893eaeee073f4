"""Rows cut into groups of so many rows and bytes, since arrays of Arrow hold 2 GiB of texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Ints = npt.NDArray[np.int64]

# What a group of a Parquet file holds in memory, and what is sorted or grouped at once.
MOST_BYTES = 512 << 20
_TEXT_BYTES = 32


def bytes_of_rows(rows: pa.Table | pa.RecordBatch) -> Ints:
    """The bytes of each row's values [n], whatever rows stand beside it."""
    found = np.zeros(rows.num_rows, np.int64)
    for column in rows.columns:
        found += _bytes(column)
    return found


def _bytes(column: pa.Array | pa.ChunkedArray) -> Ints | int:
    kind = column.type
    if pa.types.is_dictionary(kind):
        chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
        return np.concatenate([np.zeros(0, np.int64), *map(_bytes_of_texts, chunks)])
    if pa.types.is_list(kind):
        lengths = np.asarray(pc.list_value_length(column).fill_null(0)).astype(np.int64)
        return lengths * _width(kind.value_type)
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        return np.asarray(pc.binary_length(column).fill_null(0)).astype(np.int64)
    return _width(kind)


def _bytes_of_texts(coded: pa.DictionaryArray) -> Ints:
    """Of texts as they would be without their dictionary."""
    sizes = np.append(np.zeros(len(coded.dictionary), np.int64) + _bytes(coded.dictionary), 0)
    found: Ints = sizes[coded.indices.fill_null(len(coded.dictionary)).to_numpy()]
    return found


def _width(kind: pa.DataType) -> int:
    """Bytes of a value; of a text in a list, about as many as a reason has."""
    return _TEXT_BYTES if pa.types.is_string(kind) else int(kind.bit_width) // 8


def cut_rows(sizes: Ints, most_rows: int, most_bytes: int = MOST_BYTES) -> Iterator[slice]:
    """The groups of rows [n] of these sizes, each as large as may be, and of one row at least."""
    ends = np.cumsum(sizes)
    start = 0
    while start < len(sizes):
        before = ends[start - 1] if start else 0
        fits = int(np.searchsorted(ends, before + most_bytes, side="right"))
        stop = min(max(start + 1, fits), start + most_rows, len(sizes))
        yield slice(start, stop)
        start = stop


def portions(rows: pa.Table, names: Sequence[str]) -> Iterator[pa.Table]:
    """The rows in stretches that hold no more bytes in some columns than arrays do."""
    for group in cut_rows(bytes_of_rows(rows.select(names)), max(1, rows.num_rows)):
        yield rows.slice(group.start, group.stop - group.start)


def texts_of(schema: pa.Schema) -> list[str]:
    """The columns whose values may be of any length."""
    kinds = (pa.types.is_string, pa.types.is_binary)
    return [field.name for field in schema if any(is_kind(field.type) for is_kind in kinds)]


class ChunkedRows:
    """A table of many chunks, rows of which are taken. Arrow would make one array of all first."""

    def __init__(self, table: pa.Table) -> None:
        self._table, self._batches = table, table.to_batches()
        self._ends = np.cumsum([batch.num_rows for batch in self._batches])

    def take(self, places: Ints) -> pa.Table:
        """The rows at these places, in their order: as many as arrays can hold."""
        if not len(places):
            return self._table.slice(0, 0)
        order = np.argsort(places, kind="stable")
        ascending = places[order]
        limits = np.searchsorted(ascending, self._ends)
        parts, low = [], 0
        for batch, end, high in zip(self._batches, self._ends, limits.tolist(), strict=True):
            if low < high:
                own = ascending[low:high] - (end - batch.num_rows)
                parts.append(batch.take(pa.array(own)))
            low = high
        back = np.empty(len(order), np.int64)
        back[order] = np.arange(len(order))
        return pa.Table.from_batches(parts).combine_chunks().take(pa.array(back))

    def take_in_groups(self, places: Ints) -> pa.Table:
        """The same, however many, in several chunks."""
        sizes = bytes_of_rows(self._table)[places]
        groups = cut_rows(sizes, max(1, len(places)))
        none = self._table.slice(0, 0)
        return pa.concat_tables([none, *(self.take(places[group]) for group in groups)])
