"""SIGKILL, a doubled run and a promotion while a date is scored: keys once, of one version."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pandas as pd
import pytest
from pyspark.sql import SparkSession

from jobs.evaluate import score
from jobs.registry.registry import Registry
from jobs.settings.load import load_settings
from tests.builders.lakes import lake_of, run_etl
from tests.builders.models import register_model
from tests.builders.processes import DEADLINE_S, Process, millstream
from tests.builders.visits import Raw, rows_of
from tests.faults.test_etl_kills import LOCAL

DATES = ["2024-01-01", "2024-01-02"]
ROWS = 200


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> Raw:
    """Two models, the first one the champion, which has scored the first date."""
    raw = Raw(tmp_path_factory.mktemp("scored"))
    raw.settings = {"spark": {"properties_file": "spark.conf"}}
    raw.add(line for ds in DATES for line in rows_of(ds, ROWS)).write()
    raw.folder.joinpath("spark.conf").write_text(LOCAL)
    run_etl(raw, spark, DATES)
    settings = load_settings(raw.config)
    versions = [register_model(settings, DATES[0], seed=seed) for seed in (1, 2)]
    assert versions == ["1", "2"]
    Registry(settings, lake_of(raw)).promote("1", "nightly-1")
    score.run(settings, spark, run_id="score-1", dates=DATES[:1])
    return raw


def score_second(raw: Raw) -> tuple[str, ...]:
    return ("score", "--config", str(raw.config), "--date", DATES[1])


def predictions(raw: Raw) -> pd.DataFrame:
    found: pd.DataFrame = lake_of(raw).table("predictions").read_arrow().to_pandas()
    return found


def files_of(raw: Raw, ds: str) -> dict[str, bytes]:
    """The live files of a date, with their bytes."""
    table = lake_of(raw).table("predictions")
    live = [file.path for file in table.files() if file.partition["ds"] == ds]
    return {path: Path(table.url, path).read_bytes() for path in live}


def assert_keys_once(raw: Raw, version: str = "1") -> None:
    found = predictions(raw)
    assert found["ds"].value_counts().to_dict() == dict.fromkeys(DATES, ROWS)
    assert found["visit"].is_unique
    assert set(found.loc[found["ds"] == DATES[1], "model_version"]) == {version}


def until_half_written(raw: Raw, process: Process) -> None:
    """Returns when tasks are writing the run's files."""
    process.until("raw rows to score")
    table = Path(lake_of(raw).table("predictions").url)
    deadline = time.monotonic() + DEADLINE_S
    # The run that scored the first date has its folder already.
    while len(list(table.glob("run=*"))) < 2:
        assert process.popen.poll() is None, "ended before anything was being written"
        assert time.monotonic() < deadline


@pytest.mark.slow
@pytest.mark.parametrize(
    "boundary", ["raw files to score", "raw rows to score", "half written", "scored", "refused"]
)
def test_a_killed_run_changes_nothing_and_the_next_one_succeeds(
    scored: Raw, boundary: str, tmp_path: Path, spark: SparkSession
) -> None:
    raw = scored.copy(tmp_path / "copy")
    before = files_of(raw, DATES[0])
    with millstream(*score_second(raw)) as process:
        if boundary == "half written":
            until_half_written(raw, process)
        else:
            process.until(boundary)
        process.kill()
    # At most one thing could have happened: the commit.
    if set(predictions(raw)["ds"]) != set(DATES[:1]):
        assert_keys_once(raw)
    assert files_of(raw, DATES[0]) == before

    score.run(load_settings(raw.config), spark, run_id="score-2", dates=DATES[1:])

    assert_keys_once(raw)
    assert files_of(raw, DATES[0]) == before


@pytest.mark.slow
def test_two_runs_of_one_date_and_a_promotion_between(scored: Raw, tmp_path: Path) -> None:
    raw = scored.copy(tmp_path / "copy")
    before = files_of(raw, DATES[0])
    with millstream(*score_second(raw)) as one:
        one.until("raw files to score")
        # The run has its version; the alias moves under it. It stands still until the other run,
        # which takes its time to start, has met its lock.
        one.popen.send_signal(signal.SIGSTOP)
        Registry(load_settings(raw.config), lake_of(raw)).promote("2", "nightly-2")
        with millstream(*score_second(raw)) as other:
            assert other.code() == 5, "".join(other.said)
        assert "held by run score-" in "".join(other.said)
        one.popen.send_signal(signal.SIGCONT)
        assert one.code() == 0, "".join(one.said)

    assert_keys_once(raw, "1")
    assert files_of(raw, DATES[0]) == before
