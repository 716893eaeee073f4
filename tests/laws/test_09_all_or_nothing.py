"""Law 9: readers see the old version or the new one; what a dead run left does not count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from jobs.etl import job
from jobs.lake.lake import TableName
from jobs.lake.ledger import read_ledger
from jobs.main import main
from tests.builders.lakes import (
    example_rows,
    examples_of,
    lake_of,
    quarantined,
    run_etl,
    shard_contents,
)
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


def die_at(boundary: str, patch: pytest.MonkeyPatch) -> None:
    """Ends the ETL when it has done a step: a method of its pass, or the commit of a table."""
    replace, method = job.Pass._replace, getattr(job.Pass, boundary, None)

    def replaced(one: job.Pass, name: str, *rest: Any) -> int:
        version = replace(one, name, *rest)
        if name == boundary:
            raise Killed
        return version

    def done(one: job.Pass, *rest: Any) -> None:
        assert method is not None
        method(one, *rest)
        raise Killed

    patch.setattr(job.Pass, *(("_replace", replaced) if method is None else (boundary, done)))


# After each of them something more of the run is there, and none of it counts.
BOUNDARIES = ("_judged", "contributions", "id_log", "_fit", "_stage_examples", "_quarantine")


@pytest.mark.parametrize(
    "boundary",
    [pytest.param(b, marks=pytest.mark.slow if b != "_quarantine" else ()) for b in BOUNDARIES],
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
    with monkeypatch.context() as patch:
        die_at(boundary, patch)
        with pytest.raises(Killed):
            run_etl(raw, spark, [DATES[1]])
    assert examples_of(raw).version == version
    assert shard_contents(raw) == before

    # The dead run had perhaps appended to the id log; the next one must not build on that.
    run_etl(raw, spark, [DATES[2]])
    assert_alike(raw, undisturbed)


@pytest.mark.parametrize("rebuild", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_rerun_that_dies_takes_no_refused_row_away(
    rebuild: bool, tmp_path: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = [f"{DATES[0]},5,a,1,130,1", f"{DATES[0]},6,a,1,many,1", "never,7,a,1,30,1"]
    raw = Raw(tmp_path).add([*rows_of(DATES[0], 60), *bad]).write()
    run_etl(raw, spark, [DATES[0]], "etl.max_quarantined_fraction=1")
    # As many rows, of which none is refused any more; and a date with a refused one.
    lines = [*rows_of(DATES[0], 63), *rows_of(DATES[1], 20), f"{DATES[1]},8,a,1,130,1"]
    Raw(tmp_path).add(lines).write()
    with monkeypatch.context() as patch:
        die_at("_quarantine", patch)
        with pytest.raises(Killed):
            run_etl(raw, spark, DATES[:2], "etl.max_quarantined_fraction=1", rebuild=rebuild)
    Raw(tmp_path).add(rows_of(DATES[2], 20)).write("other.csv")
    run_etl(raw, spark, [DATES[2]])
    assert {row["raw"] for row in quarantined(raw)} == set(bad)
    # A row of both dates is an example or refused.
    assert len(example_rows(raw, DATES[0])) == 60


def test_a_run_that_dies_after_its_commit_has_happened(
    undisturbed: Raw, tmp_path: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = Raw(tmp_path).add(line for ds in DATES for line in rows_of(ds, 60)).write()
    run_etl(raw, spark, [DATES[0]])
    with monkeypatch.context() as patch:
        die_at("_commit", patch)
        with pytest.raises(Killed):
            run_etl(raw, spark, [DATES[2]])
    assert_alike(raw, undisturbed)
    run_etl(raw, spark, [DATES[2]])
    assert_alike(raw, undisturbed)


def assert_alike(raw: Raw, other: Raw) -> None:
    assert shard_contents(raw) == shard_contents(other)
    assert examples_of(raw).info["states"] == examples_of(other).info["states"]
    for name in ("contributions", "id_log"):
        ours, theirs = (_rows(one, name) for one in (raw, other))
        assert ours == theirs


def _rows(raw: Raw, name: TableName) -> list[str]:
    version = examples_of(raw).info["versions"][name]
    rows = lake_of(raw).table(name).read_arrow(version).to_pylist()
    return sorted(repr(sorted((k, v) for k, v in row.items() if k != "run")) for row in rows)


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


def test_a_ledger_row_that_a_kill_took_is_written_by_the_next_run(
    tmp_path: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = Raw(tmp_path).add(line for ds in DATES for line in rows_of(ds, 60)).write()
    run_etl(raw, spark, DATES[1:2])
    with monkeypatch.context() as patch:
        patch.setattr(job, "record_committed", die)
        with pytest.raises(Killed):
            run_etl(raw, spark, DATES[:1])
    version = examples_of(raw).version
    # Others' commits carry on what it says.
    assert main(["erase", "--config", str(raw.config), "--quiet", "--key", "visit=240102001"]) == 0
    for _ in range(2):
        run_etl(raw, spark, DATES[2:])
    rows = read_ledger(lake_of(raw), stage="etl")
    assert [row["ds"] for row in rows] == [DATES[1], DATES[0], DATES[2], DATES[2]]
    lost = rows[1]
    assert lost["run"] == examples_of(raw).info["runs"][DATES[0]]
    assert lost["versions"] == {"examples": str(version)}
    assert lost["counts"]["raw"] == 60
    assert lost["digests"].keys() == rows[0]["digests"].keys()


def die(*_: object) -> None:
    raise Killed
