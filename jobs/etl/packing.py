"""Packing: the model's columns of a row as one value, so that a shuffle moves few columns.

Spark's cost of moving and sorting rows is mostly one for each column; forty columns of four bytes
are one binary of 160.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql.types import BinaryType, StructField, StructType

from jobs.etl.encode import Encoder
from jobs.etl.kept import Kept, in_arrow
from jobs.etl.names import DS, SPLIT
from schemas.dataset import Dataset, StoredColumn, struct_type
from schemas.field import Categorical, Label, Numeric, Weight
from schemas.stored import arrow_schema

PACKED = "__packed"
_WIDTH = 4


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
        return [PACKED, *(column.name for column in self.others)]

    def schema(self) -> StructType:
        """Of packed rows, with `ds` and `split`."""
        others = struct_type((c.name, c.spark_type) for c in self.others)
        places = struct_type([(DS, "string"), (SPLIT, "string")])
        return StructType([StructField(PACKED, BinaryType()), *others.fields, *places.fields])

    def pack(self, table: pa.Table) -> pa.Table:
        """Stored columns, `ds` and `split` to packed rows."""
        rows = table.num_rows
        matrix = np.empty((rows, len(self.packed)), np.int32)
        for place, name in enumerate(self.packed):
            column = table[name].to_numpy()
            matrix[:, place] = column.view(np.int32)
        offsets = np.arange(rows + 1, dtype=np.int32) * (_WIDTH * len(self.packed))
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(matrix)]
        packed = pa.Array.from_buffers(pa.binary(), rows, buffers)
        rest = [*(column.name for column in self.others), DS, SPLIT]
        return pa.table([packed, *[table[name] for name in rest]], [PACKED, *rest])

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
    rows: DataFrame | Kept, dataset: Dataset, encoder: Encoder | None = None
) -> DataFrame:
    """Rows packed for `stage_shards`.

    Args:
        rows: with what the encoder takes; without one, with the stored columns, `ds` and `split`.
    """
    packing = Packing.of(dataset)
    stored = [column.name for column in packing.stored]
    columns = encoder.inputs if encoder else [*stored, DS, SPLIT]
    return in_arrow(rows, columns, partial(_packed, packing, encoder), packing.schema())


def _packed(
    packing: Packing, encoder: Encoder | None, tables: Iterator[pa.Table]
) -> Iterator[pa.RecordBatch]:
    for table in tables:
        if table.num_rows:
            yield from packing.pack(encoder(table) if encoder else table).to_batches()
