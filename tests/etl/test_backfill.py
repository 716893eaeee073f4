"""Backfill: a range in passes goes on where it was cut short, and gives what one pass gives."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs.etl import job
from tests.builders.lakes import examples_of, run_etl, shard_contents
from tests.builders.visits import Raw, rows_of

DATES = ["2024-01-01", "2024-01-02", "2024-01-03"]
BY_ONE = "etl.dates_per_pass=1"


class Killed(BaseException):
    """Stands for the end of the process: nothing of ours handles it."""


def lands(folder: Path) -> Raw:
    """A file a date."""
    raw = Raw(folder).write()
    for ds in DATES:
        text = "\n".join(["day,visit,shop,amount,age,bought", *rows_of(ds, 40)]) + "\n"
        (folder / f"{ds}.csv").write_text(text)
    raw.configure({"visits": "{ds}.csv"})
    return raw


@pytest.fixture
def cut_short(tmp_path: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> Raw:
    """With the first two passes of three done."""
    raw = lands(tmp_path / "cut")
    whole = job.Pass._commit

    def commit(one: job.Pass, *rest: object) -> int:
        if one.dates[0] == DATES[2]:
            raise Killed
        return whole(one, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(job.Pass, "_commit", commit)
        with pytest.raises(Killed):
            run_etl(raw, spark, DATES, BY_ONE)
    assert list(examples_of(raw).info["states"]) == DATES[:2]
    return raw


def test_a_range_goes_on_where_it_was_cut_short(
    cut_short: Raw, tmp_path: Path, spark: SparkSession, caplog: pytest.LogCaptureFixture
) -> None:
    before = examples_of(cut_short).info["runs"]
    # What landed again since is made again; what did not is not.
    again = cut_short.folder / f"{DATES[1]}.csv"
    again.write_text(again.read_text() + rows_of(DATES[1], 41)[-1] + "\n")
    with caplog.at_level(logging.INFO, "millstream.etl"):
        result = run_etl(cut_short, spark, DATES, BY_ONE)
    assert list(result.tallies) == DATES[1:]
    assert f"{DATES[0]}..{DATES[0]}: done before" in caplog.text
    assert f"3 of 3 passes, {DATES[2]}..{DATES[2]}: 81 rows" in caplog.text
    info = examples_of(cut_short).info
    assert info["runs"][DATES[0]] == before[DATES[0]]
    assert info["runs"][DATES[1]] != before[DATES[1]]
    assert "backfill" not in info

    at_once = lands(tmp_path / "at_once")
    (at_once.folder / again.name).write_text(again.read_text())
    run_etl(at_once, spark, DATES)
    assert shard_contents(cut_short) == shard_contents(at_once)
    assert info["states"] == examples_of(at_once).info["states"]


@pytest.mark.slow
def test_another_range_or_other_settings_skip_nothing(cut_short: Raw, spark: SparkSession) -> None:
    settings = (BY_ONE, "etl.shard_rows=10")
    assert list(run_etl(cut_short, spark, DATES, *settings).tallies) == DATES
    # A range that was finished is made anew.
    assert list(run_etl(cut_short, spark, DATES, *settings).tallies) == DATES
