"""Jobs of Spark's side by side, and a session that starts beside other things."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs.base.errors import ConfigError
from jobs.base.spark import session_ahead, side_by_side


def test_jobs_run_side_by_side(spark: SparkSession) -> None:
    with side_by_side(spark) as threads:
        found = threads.submit(spark.range(3).count)
        assert (spark.range(4).count(), found.result()) == (4, 3)


def test_a_failure_ends_the_jobs_beside_it(spark: SparkSession, tmp_path: Path) -> None:
    begun, endless = tmp_path / "begun", []

    def waits(batches):  # type: ignore[no-untyped-def]
        begun.touch()
        time.sleep(3600)
        yield from batches

    def wait() -> None:
        spark.range(1).mapInArrow(waits, "id long").collect()

    def until_begun(job: Future[None]) -> None:
        while not begun.exists():
            assert not job.done()
            time.sleep(0.1)

    with pytest.raises(KeyError), side_by_side(spark) as threads:
        endless.append(threads.submit(wait))
        until_begun(endless[0])
        raise KeyError
    assert endless[0].exception() is not None


def test_a_session_that_starts_ahead_is_the_process_own(spark: SparkSession) -> None:
    found = session_ahead("ahead")
    assert found.sparkContext is spark.sparkContext
    assert found.range(3).count() == 3


def test_it_begins_before_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = threading.Event()

    def fails(*_: object) -> None:
        begun.set()
        raise ConfigError("no JVM")

    monkeypatch.setattr("jobs.base.spark.session", fails)
    found = session_ahead("ahead")
    assert begun.wait(timeout=60)
    # Where it cannot be had, whoever needs it is told so, and nobody else.
    for _ in range(2):
        with pytest.raises(ConfigError, match="no JVM"):
            found.range(3)


def test_settings_of_one_ahead_are_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="no Spark properties file"):
        session_ahead("ahead", "none.conf")
