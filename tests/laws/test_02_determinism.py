"""Law 2: the same rows give the same split, ids, states and shards, whatever the order."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from pyspark import SparkContext
from pyspark.sql import SparkSession

from jobs.etl.fit import history
from jobs.etl.judge import judging
from jobs.etl.raw import sources
from jobs.etl.write import quarantine
from jobs.lake.manifest import Shard
from jobs.rows.read import pieces
from tests.builders.lakes import column_chunk_bytes, examples_of, lake_of, quarantined, run_etl
from tests.builders.visits import HEADER, Raw, rows_of

DATES = ["2024-01-01", "2024-01-02", "2024-01-03"]
SMALL = ("etl.shard_rows=40", "etl.row_group_rows=16", "etl.max_quarantined_fraction=1")


def lines() -> list[str]:
    """Sound lines, refused ones and repeated keys; zeros of both signs; nulls; values that tie."""
    found = [line for ds in DATES for line in rows_of(ds, 120)]
    for day, ds in enumerate(DATES):
        first = found[120 * day]
        found += [
            *found[120 * day : 120 * day + 7],
            first.replace(",18,", ",19,"),
            *(f"{ds},{n},{'xyz'[n % 3]},{'-0.0' if n % 2 else '0.0'},NA,1" for n in range(1, 13)),
            f"{ds},50,a,many,300,5",
            f"never{day},51,a,1.0,30,1",
            f"{ds},52,a,1.0,30,NA",
            "",
        ]
    return found


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
    assert _refused(raw) == _refused(reference)
    assert _entries(raw) == _entries(reference)
    assert ours.info["states"] == theirs.info["states"]
    assert [content(s) for s in ours.shards()] == [content(s) for s in theirs.shards()]
    for one, other in zip(ours.shards(), theirs.shards(), strict=True):
        assert column_chunk_bytes(f"{ours.url}/{one.path}") == column_chunk_bytes(
            f"{theirs.url}/{other.path}"
        )


def _refused(raw: Raw) -> list[tuple[object, ...]]:
    rows = quarantined(raw)
    return sorted((row["ds"], row["raw"], *row["reasons"]) for row in rows)


def _entries(raw: Raw) -> list[tuple[object, ...]]:
    log = lake_of(raw).table("id_log").read_arrow().to_pylist()
    return sorted((row["field"], row["id"], row["value"], row["from_ds"]) for row in log)


def test_the_reference_has_rows_of_all_kinds(reference: Raw) -> None:
    refused = quarantined(reference)
    assert sum("duplicate_key" in row["reasons"] for row in refused) == 24
    assert len({row["ds"] for row in refused}) == 4
    assert {"x", "y", "z"} <= {row[2] for row in _entries(reference)}


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


@pytest.mark.parametrize("seed", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 3))])
def test_cuts_of_files_tasks_and_cores_change_nothing(
    reference: Raw, tmp_path: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    chance = random.Random(seed)
    shuffled = chance.sample(lines(), len(lines()))
    cut = chance.randrange(len(shuffled))
    (tmp_path / "parts").mkdir()
    Raw(tmp_path).add(shuffled[:cut]).write("parts/1.csv")
    raw = Raw(tmp_path).add(shuffled[cut:]).write("parts/0.csv")
    raw.configure({"visits": "parts/*.csv"})
    monkeypatch.setattr(sources, "_PIECE_BYTES", chance.choice([37, 400, 2_000]))
    monkeypatch.setattr(pieces, "_HEAD_BYTES", len(HEADER) + 1)
    monkeypatch.setattr(judging, "_TASK_BYTES", chance.choice([900, 5_000]))
    monkeypatch.setattr(judging, "_PART_BYTES", 1_000)
    cores = chance.choice([1, 3, 8])
    monkeypatch.setattr(SparkContext, "defaultParallelism", property(lambda _: cores))
    run_etl(raw, spark, DATES, *SMALL)
    assert_same(raw, reference)


def test_what_is_too_large_for_the_driver_gives_the_same_in_tasks(
    reference: Raw, tmp_path: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "_DRIVER_ROWS", 0)
    monkeypatch.setattr(history, "_ROWS_PER_PART", 7)
    monkeypatch.setattr(quarantine, "_DRIVER_ROWS", 0)
    raw = Raw(tmp_path).add(lines()).write()
    run_etl(raw, spark, DATES[:2], *SMALL)
    run_etl(raw, spark, DATES[2:], *SMALL)
    assert_same(raw, reference)


@pytest.mark.slow
def test_dates_one_by_one_or_in_chunks_give_what_one_pass_does(
    reference: Raw, tmp_path: Path, spark: SparkSession
) -> None:
    raw = Raw(tmp_path).add(lines()).write()
    run_etl(raw, spark, DATES[:1], *SMALL)
    run_etl(raw, spark, DATES[1:], *SMALL, "etl.dates_per_pass=1")
    assert_same(raw, reference)
