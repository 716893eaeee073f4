"""Law 2: the same rows give the same split, ids, states and shards, whatever the order."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs.lake.manifest import Shard
from tests.builders.lakes import column_chunk_bytes, examples_of, run_etl
from tests.builders.visits import Raw, rows_of

DATES = ["2024-01-01", "2024-01-02", "2024-01-03"]
SMALL = ("etl.shard_rows=40", "etl.row_group_rows=16")


def lines() -> list[str]:
    return [line for ds in DATES for line in rows_of(ds, 120)]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> Raw:
    raw = Raw(tmp_path_factory.mktemp("reference")).add(lines()).write()
    run_etl(raw, spark, DATES, *SMALL)
    return raw


def content(shard: Shard) -> tuple[object, ...]:
    place = (shard.ds, shard.split, shard.number, shard.row_group_rows)
    return (*place, shard.digest, shard.order_digest)


def assert_same(raw: Raw, reference: Raw) -> None:
    ours, theirs = examples_of(raw), examples_of(reference)
    assert ours.info["states"] == theirs.info["states"]
    assert [content(s) for s in ours.shards()] == [content(s) for s in theirs.shards()]
    for one, other in zip(ours.shards(), theirs.shards(), strict=True):
        assert column_chunk_bytes(f"{ours.url}/{one.path}") == column_chunk_bytes(
            f"{theirs.url}/{other.path}"
        )


def test_the_reference_has_shards_and_row_groups_of_the_sizes_asked(reference: Raw) -> None:
    shards = examples_of(reference).shards("train")
    assert max(shard.number for shard in shards) >= 2
    assert all(max(shard.row_group_rows) <= 16 for shard in shards)
    assert any(len(shard.row_group_rows) > 1 for shard in shards)


def test_input_order_partitions_and_adaptive_execution_change_nothing(
    reference: Raw, tmp_path: Path, spark: SparkSession
) -> None:
    shuffled = lines()
    random.Random(3).shuffle(shuffled)
    half = len(shuffled) // 2
    (tmp_path / "parts").mkdir()
    Raw(tmp_path).add(shuffled[:half]).write("parts/1.csv")
    raw = Raw(tmp_path).add(shuffled[half:]).write("parts/0.csv")
    raw.configure({"visits": "parts/*.csv"})
    changed = {
        "spark.sql.shuffle.partitions": "7",
        "spark.sql.adaptive.enabled": "false",
        "spark.sql.files.maxPartitionBytes": "2000",
    }
    before = {name: spark.conf.get(name) for name in changed}
    try:
        for name, value in changed.items():
            spark.conf.set(name, value)
        run_etl(raw, spark, DATES, *SMALL)
    finally:
        for name, old in before.items():
            spark.conf.set(name, old or "")
    assert_same(raw, reference)


@pytest.mark.slow
def test_dates_one_by_one_or_in_chunks_give_what_one_pass_does(
    reference: Raw, tmp_path: Path, spark: SparkSession
) -> None:
    raw = Raw(tmp_path).add(lines()).write()
    run_etl(raw, spark, DATES[:1], *SMALL)
    run_etl(raw, spark, DATES[1:], *SMALL, "etl.dates_per_pass=1")
    assert_same(raw, reference)
