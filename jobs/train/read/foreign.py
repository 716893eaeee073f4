"""Columns of others' Parquet files as the columns that a declaration stores."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from jobs.base.errors import DataRefused
from jobs.base.xxhash import xxhash64_of_numbers
from jobs.lake.footers import partition_of
from jobs.lake.manifest import Shard
from schemas.dataset import ROW_ID


@dataclass(frozen=True)
class ForeignColumns:
    """How the columns of a folder's files become inputs.

    Attributes:
        sources: field -> column of the files, or of the folders that partition them. A label
            without one is NaN.
        types: field -> the type that its column gets.
        decoders: field -> from a value's bytes to its numbers, for Petastorm's codecs.
        partitions: names of the columns that the folders' names hold.
        key: column that gives row ids: its whole numbers, or hashes of its texts. None: hashes of
            the file's path and the row's place in it.
    """

    sources: Mapping[str, str]
    types: Mapping[str, pa.DataType]
    decoders: Mapping[str, Callable[[bytes], npt.NDArray[Any]]]
    partitions: frozenset[str]
    key: str | None

    def read(self, wanted: Sequence[str]) -> list[str]:
        """Columns of a file that are needed for some fields."""
        names = [self.sources.get(name) for name in wanted]
        names += [self.key] if ROW_ID in wanted else []
        return list(dict.fromkeys(name for name in names if name is not None))

    def adapted(
        self, batches: Iterator[pa.RecordBatch], wanted: Sequence[str], shard: Shard, number: int
    ) -> Iterator[pa.RecordBatch]:
        """Row group `number` of a shard, with the wanted columns by the fields' names.

        Raises:
            DataRefused: a column is missing, or has values that its field cannot take.
        """
        first = sum(shard.row_group_rows[:number])
        for rows in batches:
            columns = [self._column(rows, name, shard, first) for name in wanted]
            yield pa.RecordBatch.from_arrays(columns, list(wanted))
            first += rows.num_rows

    def _column(self, rows: pa.RecordBatch, name: str, shard: Shard, first: int) -> pa.Array:
        if name == ROW_ID:
            return self._row_ids(rows, shard, first)
        source = self.sources.get(name)
        if source is None:
            return pa.array(np.full(rows.num_rows, np.nan, np.float32))
        if source in self.partitions:
            value = partition_of(shard.path)[source]
            return _as_type(pa.repeat(pa.scalar(value), rows.num_rows), source, self.types[name])
        column = _found(rows, source)
        if name in self.decoders:
            return _decoded(column, source, self.decoders[name])
        return _as_type(column, source, self.types[name])

    def _row_ids(self, rows: pa.RecordBatch, shard: Shard, first: int) -> pa.Array:
        if self.key is None:
            file = int.from_bytes(hashlib.sha256(shard.path.encode()).digest()[:8])
            place = np.arange(first, first + rows.num_rows, dtype=np.uint64) + np.uint64(file)
            return pa.array(xxhash64_of_numbers(place.view(np.int64)).view(np.int64))
        column = _found(rows, self.key)
        if column.null_count:
            raise DataRefused(f"key {self.key!r} has {column.null_count} nulls", "none")
        if pa.types.is_integer(column.type):
            return _as_type(column, self.key, pa.int64())
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            texts = column.to_numpy(zero_copy_only=False)
            return pa.array(pd.util.hash_array(texts, categorize=False).view(np.int64))
        raise DataRefused(f"key {self.key!r} is {column.type}", "whole numbers or text")


def _found(rows: pa.RecordBatch, name: str) -> pa.Array:
    index = rows.schema.get_field_index(name)
    if index < 0:
        raise DataRefused(f"no column {name!r} in this file", "the columns of the folder's files")
    column = rows.column(index)
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _as_type(column: pa.Array, name: str, wanted: pa.DataType) -> pa.Array:
    """Numbers are rounded to float32, as the ETL rounds them; ids must fit as they are."""
    try:
        if pa.types.is_fixed_size_list(column.type):
            column = column.cast(pa.list_(column.type.value_type))
        if pa.types.is_decimal(column.type):
            # Arrow's own way from decimal to float32 rounds more than once.
            column = column.cast(pa.float64())
        return column.cast(wanted, safe=not pa.types.is_floating(wanted))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataRefused(f"column {name!r} is {column.type}: {error}", str(wanted)) from error


def _decoded(column: pa.Array, name: str, decode: Callable[[bytes], npt.NDArray[Any]]) -> pa.Array:
    """A codec's values, one by one as codecs do, as lists of float32."""
    if column.null_count:
        raise DataRefused(f"column {name!r} has {column.null_count} nulls", "none")
    try:
        parts = [decode(value.as_py()).astype(np.float32).reshape(-1) for value in column]
    except Exception as error:
        raise DataRefused(f"a value of {name!r} cannot be decoded: {error}") from error
    ends = np.cumsum([0, *map(len, parts)], dtype=np.int32)
    numbers = np.concatenate(parts) if parts else np.empty(0, np.float32)
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(numbers))
