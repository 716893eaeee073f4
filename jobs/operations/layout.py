"""Examples of some dates laid out anew: the same rows, or fewer, in shards as today's settings."""

from __future__ import annotations

import time
from collections.abc import Sequence

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.etl.write.layout import ShardLayout, sent_examples
from jobs.etl.write.shards import stage_shards
from jobs.lake.files import NewFile
from jobs.lake.lake import Lake
from jobs.lake.ledger import LedgerRow, of_commit, record_committed, record_lost
from jobs.lake.lock import StageLock
from jobs.lake.manifest import UINT64, Shard, write_manifest
from jobs.rows.base.names import DS, SPLIT
from jobs.settings.settings import Settings
from schemas.dataset import ROW_ID

# Rows, and sums mod 2^64 of the rows' and of the row ids' hashes.
Content = tuple[int, int, int]


def stored_examples(
    spark: SparkSession, settings: Settings, lake: Lake, dates: Sequence[str]
) -> DataFrame:
    """The examples of the dates: stored columns, `ds`, `split`."""
    schema = settings.dataset().examples_schema()
    rows = lake.table("examples").spark(spark, schema, where={DS: dates})
    # Read back, any column may be null; row ids were written as never null, and are again.
    return rows.withColumn(ROW_ID, F.coalesce(ROW_ID, F.lit(0)))


def lay_out(rows: DataFrame, settings: Settings, lake: Lake, run_id: str) -> list[Shard]:
    """Writes the rows as shards; nothing is visible yet."""
    dataset, etl, table = settings.dataset(), settings.etl, lake.table("examples")
    counts = {
        (row[DS], row[SPLIT]): row["rows"]
        for row in rows.groupBy(DS, SPLIT).agg(F.count(F.lit(1)).alias("rows")).collect()
    }
    layout = ShardLayout.of(counts, etl.shard_rows)
    sent = sent_examples(rows, dataset, layout)
    return stage_shards(sent, dataset, table, run_id, layout, etl)


def commit_layout(
    lake: Lake,
    lock: StageLock,
    run_id: str,
    shards: Sequence[Shard],
    rows: Sequence[LedgerRow],
    started: float,
) -> int:
    """Makes the shards the examples of the rows' dates, in a commit with the states that the last
    one names, and tells the ledger.

    Args:
        rows: of the ledger, one a date.
        started: when the run did, by `time.monotonic`.
    """
    table = lake.table("examples")
    info = table.commit_info()
    record_lost(lake, "examples", info)
    info |= {"run": run_id} | of_commit(rows)
    write_manifest(table.url, run_id, shards)
    files = [NewFile(s.path, {DS: s.ds, SPLIT: s.split}, s.bytes, s.row_group_rows) for s in shards]
    lock.check()
    where = {DS: [row.ds for row in rows]}
    version = table.rewrite(files, where, info, "etl", lock.token)
    record_committed(lake, "examples", version, rows, time.monotonic() - started)
    return version


def contents(shards: Sequence[Shard]) -> dict[tuple[str, str], Content]:
    """What each (ds, split) holds, whatever the shards it lies in."""
    found: dict[tuple[str, str], Content] = {}
    for shard in shards:
        rows, digest, ids = found.get((shard.ds, shard.split), (0, 0, 0))
        found[shard.ds, shard.split] = (
            rows + shard.rows,
            (digest + shard.digest) % UINT64,
            (ids + shard.row_id_sum) % UINT64,
        )
    return found
