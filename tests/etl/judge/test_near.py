"""Tasks are placed near the blocks that they read, where the store says where these are."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyspark.sql import DataFrame, SparkSession

from jobs.etl.judge.near import numbered
from jobs.rows.read.files import find_files
from jobs.rows.read.pieces import Piece, cut, shares
from schemas.dataset import Column, Source
from tests.builders.hdfs import BLOCK_BYTES, Hdfs

THINGS = Source("things", columns=(Column("id", "bigint"), Column("name", "string")))
LINES = "id,name\n" + "".join(f"{n},{'x' * 50}\n" for n in range(60_000))


def shares_of(folder: str) -> list[list[Piece]]:
    return shares(cut(find_files(folder, []), THINGS, BLOCK_BYTES), 3)


def hosts_of(tasks: DataFrame) -> list[str]:
    """By partition, as Spark's scheduler asks."""
    context = tasks.sparkSession.sparkContext._jsc.sc()
    rows = tasks.mapInArrow(lambda batches: batches, tasks.schema)._jdf.queryExecution().toRdd()
    return [str(context.getPreferredLocs(rows, n)) for n in range(rows.getNumPartitions())]


@pytest.mark.slow
def test_tasks_prefer_the_hosts_of_their_blocks(
    hdfs: Hdfs, spark: SparkSession, tmp_path: Path
) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.csv").write_text(LINES)
    found = shares_of(hdfs.upload(tmp_path / "raw", f"{tmp_path.name}/near"))

    tasks = numbered(spark, found)

    assert [row[0] for row in tasks.collect()] == list(range(len(found)))
    # The data nodes are on loopback, by whatever name this machine calls that.
    assert set(hosts_of(tasks)) <= {"List(localhost)", "List(127.0.0.1)"}


def test_files_of_a_disk_are_near_everywhere(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(LINES)
    found = shares_of(str(tmp_path))

    tasks = numbered(spark, found)

    assert [row[0] for row in tasks.collect()] == list(range(len(found)))
    assert hosts_of(tasks) == ["List()"] * len(found)
