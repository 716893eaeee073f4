"""Shards: encoded rows to Parquet files whose content depends on the rows alone.

A row's shard follows from its row id and the number of rows of its (ds, split); within a shard
rows are ordered by row id, a hash, so that a shard is a shuffled sample. How many tasks write, and
in which order rows come to them, changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import to_arrow_schema

from jobs.etl.ingest import DS
from jobs.lake import NewFile, Table
from jobs.manifest import UINT64, Shard
from jobs.spark import OPEN_FILES
from jobs.store import write_whole
from schemas.dataset import ROW_ID, Dataset, struct_type

SPLIT, SHARD = "split", "shard"
_LAYOUT = (DS, SPLIT, SHARD)


def stage_shards(
    rows: DataFrame,
    dataset: Dataset,
    table: Table,
    run: str,
    rows_by_split: Mapping[tuple[str, str], int],
    shard_rows: int,
    row_group_rows: int,
) -> list[NewFile]:
    """Writes the shards into the run's folder; nothing is visible yet.

    Args:
        rows: stored columns, `ds` and `split`.
        rows_by_split: number of rows of each (ds, split).
        shard_rows: rows a shard at most.
        row_group_rows: rows a row group at most.
    """
    spark = rows.sparkSession
    num_shards = {key: max(1, -(-count // shard_rows)) for key, count in rows_by_split.items()}
    # Shards are numbered through and dealt to the tasks in turn: hashed, some tasks would get many.
    firsts = list(accumulate(num_shards.values(), initial=0))[:-1]
    counted = spark.createDataFrame(
        [
            (*key, number, first)
            for (key, number), first in zip(num_shards.items(), firsts, strict=True)
        ],
        "ds string, split string, num_shards int, first int",
    )
    placed = rows.join(F.broadcast(counted), [DS, SPLIT]).withColumn(
        SHARD, F.pmod(F.xxhash64(ROW_ID, F.lit(SHARD)), F.col("num_shards"))
    )
    total, most = sum(num_shards.values()), 4 * spark.sparkContext.defaultParallelism
    num_tasks = max(1, min(total, most), -(-total // OPEN_FILES))
    number = F.col("first") + F.col(SHARD)
    task = F.pmod(number, F.lit(num_tasks)).cast("int")
    # By shard and row id, mostly decided by one long, which Spark's sort holds beside its pointers.
    place = F.shiftleft(number, 40) + F.shiftright(ROW_ID, 24)
    ordered = placed.repartitionById(num_tasks, task).sortWithinPartitions(
        place, number, ROW_ID, *dataset.key
    )
    names = [column.name for column in dataset.stored_columns()]
    writer = ordered.select(*names, *_LAYOUT).write.mode("overwrite").partitionBy(*_LAYOUT)
    (
        writer.option("compression", "zstd")
        .option("parquet.block.row.count.limit", row_group_rows)
        # Groups end by rows, not by bytes.
        .option("parquet.block.size", 2**30)
        .parquet(f"{table.url}/run={run}")
    )
    return table.staged(run, (DS, SPLIT))


def verified_shards(
    spark: SparkSession, dataset: Dataset, table: Table, run: str, files: Sequence[NewFile]
) -> list[Shard]:
    """Reads back what was written: rows and content digests of each shard, for the manifest."""
    names = [column.name for column in dataset.stored_columns()]
    schema = dataset.examples_schema().add(SHARD, "string")
    folder = f"{table.url}/run={run}"
    written = spark.read.schema(schema).option("basePath", folder).parquet(folder)
    # xxhash64 skips nulls, so where they stand is hashed too.
    nulls = [F.col(c.name).isNull() for c in dataset.stored_columns() if c.nullable]
    hashed = written.select(
        *_LAYOUT,
        ROW_ID,
        F.xxhash64(*names, *nulls).alias("row"),
        F.col("_metadata.row_index").alias("place"),
    )
    digests = hashed.groupBy(*_LAYOUT).agg(
        F.count(F.lit(1)).alias("rows"),
        F.sum("row").alias("digest"),
        F.sum(F.xxhash64("row", "place")).alias("order_digest"),
        F.sum(F.xxhash64(ROW_ID)).alias("row_id_sum"),
    )
    # One row a shard.
    found = {tuple(row[name] for name in _LAYOUT): row for row in digests.collect()}
    shards = []
    for file in files:
        number = file.path.split(f"/{SHARD}=", 1)[1].split("/", 1)[0]
        row = found.pop((file.partition[DS], file.partition[SPLIT], number))
        assert row["rows"] == file.rows, f"{file.path}: footer {file.rows}, read {row['rows']}"
        shards.append(
            Shard(
                ds=file.partition[DS],
                split=file.partition[SPLIT],
                number=int(number),
                path=file.path,
                bytes=file.bytes,
                row_group_rows=file.row_group_rows,
                digest=row["digest"] % UINT64,
                row_id_sum=row["row_id_sum"] % UINT64,
                order_digest=row["order_digest"] % UINT64,
            )
        )
    assert not found, f"shards in more than one file, or in none: {sorted(found)}"
    if dataset.tensors or dataset.lists:
        _describe_for_petastorm(dataset, folder, shards)
    return sorted(shards)


def _describe_for_petastorm(dataset: Dataset, folder: str, shards: Sequence[Shard]) -> None:
    """Lets `petastorm.make_reader` open the run's folder. We never read it back."""
    from jobs.petastorm_arrow import common_metadata

    schema = to_arrow_schema(struct_type((c.name, c.spark_type) for c in dataset.stored_columns()))
    row_groups = {shard.path.split("/", 1)[1]: len(shard.row_group_rows) for shard in shards}
    content = common_metadata(dataset, schema, (DS, SPLIT), row_groups)
    write_whole(f"{folder}/_common_metadata", content)
