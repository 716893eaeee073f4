"""Shards: one digest of the rows as a set, one of the rows in order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import SparkSession

from jobs.etl.ingest import DS
from jobs.etl.shards import SPLIT, verified_shards
from jobs.lake import Table
from jobs.manifest import Shard
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
