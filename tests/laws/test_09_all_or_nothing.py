"""Law 9: readers see the old version or the new one; what a dead run left does not count."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs.etl import job
from tests.builders.lakes import examples_of, run_etl, shard_contents
from tests.builders.visits import Raw, rows_of

DATES = ["2024-01-01", "2024-01-02", "2024-01-03"]


class Killed(BaseException):
    """Stands for the end of the process: nothing of ours handles it."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> Raw:
    """Date 1, then date 3: what must stand however often date 2 died in between."""
    raw = Raw(tmp_path_factory.mktemp("undisturbed"))
    raw.add(line for ds in DATES for line in rows_of(ds, 60)).write()
    run_etl(raw, spark, [DATES[0]])
    run_etl(raw, spark, [DATES[2]])
    return raw


@pytest.mark.parametrize(
    "boundary",
    [
        pytest.param("_stage_examples", marks=pytest.mark.slow),
        pytest.param("_quarantine", marks=pytest.mark.slow),
        "_commit",
    ],
)
def test_a_run_that_dies_leaves_no_trace_that_counts(
    undisturbed: Raw,
    boundary: str,
    tmp_path: Path,
    spark: SparkSession,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    raw = Raw(tmp_path).add(line for ds in DATES for line in rows_of(ds, 60))
    raw.write()
    run_etl(raw, spark, [DATES[0]])
    version, before = examples_of(raw).version, shard_contents(raw)

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(job.Pass, boundary, die)
        with pytest.raises(Killed):
            run_etl(raw, spark, [DATES[1]])
    assert examples_of(raw).version == version
    assert shard_contents(raw) == before

    # The dead run had appended to the id log; the next one must not build on that.
    run_etl(raw, spark, [DATES[2]])
    assert shard_contents(raw) == shard_contents(undisturbed)
    assert examples_of(raw).info["states"] == examples_of(undisturbed).info["states"]


def test_readers_keep_the_version_that_they_opened(
    undisturbed: Raw, tmp_path: Path, spark: SparkSession
) -> None:
    raw = Raw(tmp_path).add(rows_of(DATES[0], 60)).write()
    run_etl(raw, spark, [DATES[0]])
    opened = examples_of(raw)
    rows = sum(shard.rows for shard in opened.shards())
    Raw(tmp_path).add(rows_of(DATES[0], 90)).write()
    run_etl(raw, spark, [DATES[0]])
    assert sum(shard.rows for shard in opened.shards()) == rows == 60
    assert sum(shard.rows for shard in examples_of(raw).shards()) == 90
