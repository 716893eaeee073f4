"""SIGKILL of the ETL's driver and of an executor: all or nothing, and the next run succeeds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from tests.builders.lakes import examples_of, run_etl, shard_contents
from tests.builders.processes import millstream
from tests.builders.visits import Raw, rows_of

DATES = ["2024-01-01", "2024-01-02"]
SPARK = (
    "spark.driver.memory 1g\n"
    "spark.driver.extraJavaOptions -XX:TieredStopAtLevel=1\n"
    "spark.driver.host localhost\n"
    "spark.driver.bindAddress 127.0.0.1\n"
    "spark.ui.enabled false\n"
    "spark.ui.showConsoleProgress false\n"
    "spark.sql.shuffle.partitions 4\n"
)
LOCAL = "spark.master local[2]\n" + SPARK
CLUSTER = "spark.master local-cluster[2,1,1024]\nspark.executor.memory 1g\n" + SPARK


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> Raw:
    """With the first date made."""
    raw = Raw(tmp_path_factory.mktemp("first"))
    raw.settings = {"spark": {"properties_file": "spark.conf"}}
    raw.add(line for ds in DATES for line in rows_of(ds, 80)).write()
    raw.folder.joinpath("spark.conf").write_text(LOCAL)
    run_etl(raw, spark, DATES[:1])
    return raw


@pytest.fixture(scope="module")
def both(first: Raw, tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> Raw:
    """With both dates made, undisturbed."""
    raw = first.copy(tmp_path_factory.mktemp("both") / "copy")
    run_etl(raw, spark, DATES[1:])
    return raw


def etl(raw: Raw) -> tuple[str, ...]:
    return ("etl", "--config", str(raw.config), "--date", DATES[1])


@pytest.mark.parametrize(
    "boundary",
    [
        pytest.param("raw rows of", marks=pytest.mark.slow),
        pytest.param("checked:", marks=pytest.mark.slow),
        pytest.param("fitted", marks=pytest.mark.slow),
        pytest.param("wrote", marks=pytest.mark.slow),
    ],
)
def test_a_driver_killed_at_a_boundary_leaves_all_or_nothing(
    first: Raw, both: Raw, boundary: str, tmp_path: Path, spark: SparkSession
) -> None:
    raw = first.copy(tmp_path / "copy")
    with millstream(*etl(raw)) as process:
        process.until(boundary)
        process.kill()
    assert shard_contents(raw) in (shard_contents(first), shard_contents(both))
    lock = json.loads((raw.lake / "visits" / "locks" / "etl.json").read_text())
    assert not lock["released"]

    # The dead one's lock is taken over without waiting for its lease.
    run_etl(raw, spark, DATES[1:])
    assert shard_contents(raw) == shard_contents(both)
    assert examples_of(raw).info["states"] == examples_of(both).info["states"]


@pytest.mark.slow
def test_of_two_runs_of_one_date_one_wins_and_one_exits_5(
    first: Raw, both: Raw, tmp_path: Path
) -> None:
    raw = first.copy(tmp_path / "copy")
    with millstream(*etl(raw)) as one:
        one.until("raw rows of")
        with millstream(*etl(raw)) as other:
            assert other.code() == 5
        assert "held by run etl-" in "".join(other.said)
        assert one.code() == 0
    assert shard_contents(raw) == shard_contents(both)


@pytest.mark.slow
def test_a_killed_executor_changes_nothing(first: Raw, both: Raw, tmp_path: Path) -> None:
    raw = first.copy(tmp_path / "copy")
    (raw.folder / "spark.conf").write_text(CLUSTER)
    with millstream(*etl(raw)) as process:
        process.until("checked:")
        executors = process.executors()
        assert len(executors) == 2
        executors[0].kill()
        assert process.code() == 0, "".join(process.said)
    assert shard_contents(raw) == shard_contents(both)
    assert examples_of(raw).info["states"] == examples_of(both).info["states"]
