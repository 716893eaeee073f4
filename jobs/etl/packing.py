"""Packing: a row's shard, its id and the model's columns as one value, for a cheap shuffle.

Spark's cost of moving and sorting rows is mostly one for each column; forty columns of four bytes
are one binary of 160.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import accumulate

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql.types import BinaryType, IntegerType, StructField, StructType

from jobs.etl.encode import Encoder
from jobs.etl.kept import Kept, in_arrow
from jobs.etl.names import DS, SPLIT
from jobs.xxhash import xxhash64_of_pair
from schemas.dataset import ROW_ID, Dataset, StoredColumn, struct_type
from schemas.field import Categorical, Label, Numeric, Weight
from schemas.stored import arrow_schema

NUMBER, PACKED = "__number", "__packed"
_SHARD = "shard"
_WIDTH, _BLOCK_ROWS = 4, 8192


@dataclass(frozen=True)
class Layout:
    """The shards of (ds, split), numbered through.

    Attributes:
        counts: shards of each (ds, split).
    """

    counts: Mapping[tuple[str, str], int]

    @staticmethod
    def of(rows_by_split: Mapping[tuple[str, str], int], shard_rows: int) -> Layout:
        """As many shards as hold `shard_rows` rows at most, on average."""
        return Layout({key: max(1, -(-n // shard_rows)) for key, n in rows_by_split.items()})

    @cached_property
    def firsts(self) -> dict[tuple[str, str], int]:
        """Number of the first shard of each (ds, split)."""
        return dict(zip(self.counts, accumulate(self.counts.values(), initial=0), strict=False))

    @property
    def shards(self) -> list[tuple[str, str, int]]:
        """(ds, split, its shard) by number."""
        return [(*key, shard) for key, count in self.counts.items() for shard in range(count)]

    def numbers(self, table: pa.Table) -> npt.NDArray[np.int32]:
        """The shard's number of each row, by its row id."""
        hashes = xxhash64_of_pair(table[ROW_ID].to_numpy(), _SHARD)
        places = [pc.dictionary_encode(table[name].combine_chunks()) for name in (DS, SPLIT)]
        days, splits = (place.dictionary.to_pylist() for place in places)
        pairs = places[0].indices.to_numpy() * len(splits) + places[1].indices.to_numpy()
        keys = [(ds, split) for ds in days for split in splits]
        first = np.array([self.firsts.get(key, 0) for key in keys], np.int64)
        count = np.array([self.counts.get(key, 1) for key in keys], np.int64)
        found: npt.NDArray[np.int32] = (first[pairs] + hashes % count[pairs]).astype(np.int32)
        return found


@dataclass(frozen=True)
class Packing:
    """Which of the stored columns are packed: numbers, ids, label and weight.

    Attributes:
        stored: all, in their order.
        packed: names of those that are; of four bytes each, and never NaN, which stands for null.
    """

    stored: tuple[StoredColumn, ...]
    packed: tuple[str, ...]

    @staticmethod
    def of(dataset: Dataset) -> Packing:
        kinds = (Numeric, Categorical, Label, Weight)
        packed = tuple(f.name for f in dataset.fields if isinstance(f, kinds))
        return Packing(dataset.stored_columns(), packed)

    @property
    def others(self) -> tuple[StoredColumn, ...]:
        return tuple(column for column in self.stored if column.name not in self.packed)

    @property
    def columns(self) -> list[str]:
        """Of packed rows."""
        return [NUMBER, PACKED, *(column.name for column in self.others)]

    def schema(self) -> StructType:
        """Of packed rows."""
        others = struct_type((c.name, c.spark_type) for c in self.others)
        own = [StructField(NUMBER, IntegerType()), StructField(PACKED, BinaryType())]
        return StructType([*own, *others.fields])

    def pack(self, table: pa.Table, layout: Layout) -> pa.Table:
        """Stored columns, `ds` and `split` to packed rows."""
        rows = table.num_rows
        matrix = np.empty((rows, len(self.packed)), np.int32)
        columns = [table[name].to_numpy().view(np.int32) for name in self.packed]
        # A block of rows stays in the processor's cache while its columns are filled in.
        for start in range(0, rows, _BLOCK_ROWS):
            block = slice(start, start + _BLOCK_ROWS)
            for place, column in enumerate(columns):
                matrix[block, place] = column[block]
        offsets = np.arange(rows + 1, dtype=np.int32) * (_WIDTH * len(self.packed))
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(matrix)]
        packed = pa.Array.from_buffers(pa.binary(), rows, buffers)
        others = [table[column.name] for column in self.others]
        return pa.table([pa.array(layout.numbers(table)), packed, *others], self.columns)

    def unpacked(self, rows: pa.Table) -> pa.Table:
        """Packed rows to the stored columns."""
        matrix = self._matrix(rows[PACKED].combine_chunks())
        arrays, schema = [], arrow_schema(self.stored)
        for column in self.stored:
            if column.name not in self.packed:
                arrays.append(rows[column.name].combine_chunks())
                continue
            values = matrix[:, self.packed.index(column.name)].copy()
            wanted = schema.field(column.name).type
            if wanted == pa.float32():
                # Null where NaN is.
                arrays.append(pa.array(values.view(np.float32), wanted, from_pandas=True))
            else:
                arrays.append(pa.array(values, wanted))
        return pa.Table.from_arrays(arrays, schema=schema)

    def _matrix(self, packed: pa.BinaryArray) -> np.ndarray[tuple[int, int], np.dtype[np.int32]]:
        """Numbers [n, packed columns]."""
        _, offsets, data = packed.buffers()
        start = int(np.frombuffer(offsets, np.int32)[packed.offset]) if len(packed) else 0
        size = len(packed) * len(self.packed)
        values = np.frombuffer(data, np.int32, size, start) if size else np.zeros(0, np.int32)
        return values.reshape(len(packed), len(self.packed))


def packed_rows(
    rows: DataFrame | Kept, dataset: Dataset, layout: Layout, encoder: Encoder | None = None
) -> DataFrame:
    """Rows packed for `stage_shards`.

    Args:
        rows: with what the encoder takes; without one, with the stored columns, `ds` and `split`.
    """
    packing = Packing.of(dataset)
    stored = [column.name for column in packing.stored]
    columns = encoder.inputs if encoder else [*stored, DS, SPLIT]
    return in_arrow(rows, columns, partial(_packed, packing, layout, encoder), packing.schema())


def _packed(
    packing: Packing, layout: Layout, encoder: Encoder | None, tables: Iterator[pa.Table]
) -> Iterator[pa.RecordBatch]:
    for table in tables:
        if table.num_rows:
            stored = encoder(table) if encoder else table
            yield from packing.pack(stored, layout).to_batches()
