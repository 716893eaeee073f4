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

from jobs.base.xxhash import xxhash64_of_pair
from jobs.etl.encode import Encoder
from jobs.etl.exchange import PARCELS, gathered, parcels
from jobs.etl.kept import Kept, in_arrow
from jobs.etl.names import DS, SPLIT
from schemas.dataset import ROW_ID, Dataset
from schemas.stored import arrow_schema

_SHARD = "shard"


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


def sent_rows(
    rows: DataFrame | Kept, dataset: Dataset, layout: Layout, encoder: Encoder | None = None
) -> DataFrame:
    """Rows as parcels for the layout's shards, of each task in order of their row ids.

    Args:
        rows: with what the encoder takes; without one, with the stored columns, `ds` and `split`.
    """
    schema = arrow_schema(dataset.stored_columns())
    columns = encoder.inputs if encoder else [*schema.names, DS, SPLIT]
    return in_arrow(rows, columns, partial(_sent, schema, layout, encoder), PARCELS)


def _sent(
    schema: pa.Schema, layout: Layout, encoder: Encoder | None, tables: Iterator[pa.Table]
) -> Iterator[pa.RecordBatch]:
    stored = (encoder(table) if encoder else table for table in tables)
    for table in gathered(stored):
        if table.num_rows:
            rows = table.select(schema.names).cast(schema)
            order = np.argsort(rows[ROW_ID].to_numpy())
            yield from parcels(rows, layout.numbers(table), order)
