"""Layout: which shard a row belongs to, and rows on their way to it."""

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

from jobs.base.workers import in_workers
from jobs.base.xxhash import xxhash64_of_pair
from jobs.etl.encode.encoder import Encoder
from jobs.etl.judge.files import ValidRows
from jobs.etl.parcels import PARCELS, gathered, parcels
from jobs.rows.base.groups import portions, texts_of
from jobs.rows.base.names import DS, SPLIT
from schemas.dataset import ROW_ID, Dataset
from schemas.stored import arrow_schema

_SHARD = "shard"


@dataclass(frozen=True)
class ShardLayout:
    """The shards of (ds, split), numbered through.

    Attributes:
        counts: shards of each (ds, split).
        rows: of all of them.
    """

    counts: Mapping[tuple[str, str], int]
    rows: int

    @staticmethod
    def of(rows_by_split: Mapping[tuple[str, str], int], shard_rows: int) -> ShardLayout:
        """As many shards as hold `shard_rows` rows at most, on average."""
        counts = {key: max(1, -(-n // shard_rows)) for key, n in rows_by_split.items()}
        return ShardLayout(counts, sum(rows_by_split.values()))

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


def sent_rows(
    rows: ValidRows, dataset: Dataset, layout: ShardLayout, encoder: Encoder
) -> DataFrame:
    """Rows, encoded, as parcels for the layout's shards, of each task in order of their row ids."""
    step = partial(_sent, arrow_schema(dataset.stored_columns()), layout, encoder)
    return rows.in_arrow(encoder.inputs, step, PARCELS)


def sent_examples(examples: DataFrame, dataset: Dataset, layout: ShardLayout) -> DataFrame:
    """The same of rows that are encoded: with the stored columns, `ds` and `split`."""
    step = partial(_sent_batches, arrow_schema(dataset.stored_columns()), layout)
    return in_workers(examples, step, PARCELS)


def _sent_batches(
    schema: pa.Schema, layout: ShardLayout, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    return _sent(schema, layout, None, (pa.Table.from_batches([batch]) for batch in batches))


def _sent(
    schema: pa.Schema, layout: ShardLayout, encoder: Encoder | None, tables: Iterator[pa.Table]
) -> Iterator[pa.RecordBatch]:
    texts = texts_of(schema)
    parts = (part for table in tables for part in portions(table, texts))
    stored = (encoder(part) if encoder else part for part in parts)
    for table in gathered(stored):
        if table.num_rows:
            rows = table.select(schema.names).cast(schema)
            order = np.argsort(rows[ROW_ID].to_numpy())
            yield from parcels(rows, layout.numbers(table), order)
