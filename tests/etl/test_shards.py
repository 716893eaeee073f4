"""Shards: one digest of the rows as a set, one of the rows in order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import SparkSession

from jobs.etl import digests, shards
from jobs.etl.ingest import DS
from jobs.etl.shards import SPLIT, verified_shards
from jobs.lake.manifest import Shard
from jobs.lake.tables import Table
from tests.builders.examples import CLICKS, columns_of


def shard_of(table: Table, run: str, rows: pa.Table, spark: SparkSession) -> Shard:
    folder = Path(table.url, f"run={run}", "ds=2026-01-01", "split=train", "shard=0")
    folder.mkdir(parents=True)
    pq.write_table(rows, folder / "part.parquet")
    (shard,) = verified_shards(spark, CLICKS, table, run, table.staged(run, (DS, SPLIT)))
    return shard


def test_the_order_of_rows_changes_one_digest_and_a_value_both(
    tmp_path: Path, spark: SparkSession
) -> None:
    table, rows = Table(str(tmp_path)), columns_of(np.arange(50))
    plain = shard_of(table, "plain", rows, spark)
    turned = shard_of(table, "turned", rows.take(list(range(49, -1, -1))), spark)
    other = shard_of(table, "other", columns_of(np.arange(1, 51)), spark)
    again = shard_of(table, "again", rows, spark)
    assert (again.digest, again.order_digest) == (plain.digest, plain.order_digest)
    assert turned.digest == plain.digest and turned.order_digest != plain.order_digest
    assert other.digest != plain.digest and other.order_digest != plain.order_digest


def test_workers_and_spark_give_the_same_digests(tmp_path: Path, spark: SparkSession) -> None:
    table = Table(str(tmp_path))
    for shard in range(3):
        folder = Path(table.url, "run=some", "ds=2026-01-01", "split=train", f"shard={shard}")
        folder.mkdir(parents=True)
        rows = columns_of(np.arange(shard * 100, shard * 100 + 97))
        pq.write_table(rows, folder / "part.parquet", row_group_size=10)
    files = table.staged("some", (DS, SPLIT))
    args = (spark, CLICKS, f"{table.url}/run=some", files)
    by_spark = dict(digests._by_spark(*args))
    assert [by_spark[n] for n in range(3)] == digests.digests(*args)
    assert len({d.digest for d in by_spark.values()}) == 3


def test_rows_come_in_order_from_parcels_in_any_order() -> None:
    rng = np.random.default_rng(5)
    ids = rng.integers(-(2**63), 2**63 - 1, 1000)
    # Two keys of one hash: their order is that of the keys, wherever they come from.
    ids[:7] = ids[7:14]
    table = pa.table({"row_id": ids, "key": [f"{n:04}" for n in rng.permutation(1000)]})
    expected = table.sort_by([("row_id", "ascending"), ("key", "ascending")])
    for count in (1, 2, 9):
        cuts = np.sort(rng.integers(0, 1000, count - 1))
        parts = [table.take(part) for part in np.split(rng.permutation(1000), cuts)]
        batches = [
            b for part in parts for b in part.sort_by("row_id").combine_chunks().to_batches()
        ]
        found = list(shards._groups(batches, ("key",), 64))
        assert [group.num_rows for group in found] == [64] * 15 + [40]
        assert pa.concat_tables(found).equals(expected)
