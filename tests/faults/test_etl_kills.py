"""SIGKILL of the ETL's driver and of an executor: all or nothing, and the next run succeeds."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from tests.builders.lakes import examples_of, run_etl, shard_contents
from tests.builders.processes import DEADLINE_S, Process, millstream
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
    # With rows that repeat a key, so that patches and a second count are among the steps.
    raw.add(line for ds in DATES for line in [*rows_of(ds, 80), *rows_of(ds, 3)]).write()
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


def version_of(raw: Raw, table: str) -> Path:
    """The file by which the table's next version is made."""
    log = raw.lake / "visits" / table / "_delta_log"
    newest = max(int(file.stem) for file in log.glob("*.json"))
    return log / f"{newest + 1:020}.json"


def until_there(process: Process, folder: Path, pattern: str) -> None:
    """Returns when a file of that name is there."""
    deadline = time.monotonic() + DEADLINE_S
    while not any(folder.glob(pattern)):
        assert process.popen.poll() is None, f"ended without {folder}/{pattern}"
        assert time.monotonic() < deadline
        time.sleep(0.005)


# What is logged, or the table that is committed, where the driver dies.
LOGGED = ("raw rows of", "checked:", "fitted", "wrote")
COMMITTED = ("contributions", "id_log", "quarantine", "examples")


@pytest.mark.slow
@pytest.mark.parametrize("boundary", ["judging", *LOGGED, *COMMITTED])
def test_a_driver_killed_at_a_boundary_leaves_all_or_nothing(
    first: Raw, both: Raw, boundary: str, tmp_path: Path, spark: SparkSession
) -> None:
    raw = first.copy(tmp_path / "copy")
    committed = version_of(raw, boundary) if boundary in COMMITTED else None
    with millstream(*etl(raw)) as process:
        if committed is not None:
            until_there(process, committed.parent, committed.name)
        elif boundary == "judging":
            until_there(process, raw.lake / "visits" / "judged", "run=*/valid-*")
        else:
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
        # The other one's start alone takes longer than what is left to do.
        one.popen.send_signal(signal.SIGSTOP)
        with millstream(*etl(raw)) as other:
            assert other.code() == 5
        assert "held by run etl-" in "".join(other.said)
        one.popen.send_signal(signal.SIGCONT)
        assert one.code() == 0
    assert shard_contents(raw) == shard_contents(both)


@pytest.mark.slow
@pytest.mark.parametrize("boundary", ["judging", "raw rows of", "fitted"])
def test_a_killed_executor_changes_nothing(
    first: Raw, both: Raw, boundary: str, tmp_path: Path
) -> None:
    raw = first.copy(tmp_path / "copy")
    (raw.folder / "spark.conf").write_text(CLUSTER)
    with millstream(*etl(raw)) as process:
        if boundary == "judging":
            until_there(process, raw.lake / "visits" / "judged", "run=*/valid-*")
        else:
            process.until(boundary)
        executors = process.executors()
        assert len(executors) == 2
        executors[0].kill()
        assert process.code() == 0, "".join(process.said)
    assert shard_contents(raw) == shard_contents(both)
    assert examples_of(raw).info["states"] == examples_of(both).info["states"]
