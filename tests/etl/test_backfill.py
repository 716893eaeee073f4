"""Backfill: a range in passes goes on where it was cut short, and gives what one pass gives."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs.etl import job
from jobs.etl.backfill import Backfill
from jobs.lake.state import NumericStats, load_state
from tests.builders.lakes import examples_of, lake_of, run_etl, shard_contents
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


def cut_short(
    folder: Path, dates: list[str], spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> Raw:
    """All passes of a date each are done but the last, which dies at its commit."""
    raw = lands(folder)
    whole = job.Pass._commit

    def commit(one: job.Pass, *rest: object) -> int:
        if one.dates[0] == dates[-1]:
            raise Killed
        return whole(one, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(job.Pass, "_commit", commit)
        with pytest.raises(Killed):
            run_etl(raw, spark, dates, BY_ONE)
    assert list(examples_of(raw).info["states"]) == dates[:-1]
    return raw


@pytest.mark.slow
def test_a_range_goes_on_where_it_was_cut_short(
    tmp_path: Path,
    spark: SparkSession,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    raw = cut_short(tmp_path, DATES[:2], spark, monkeypatch)
    before = examples_of(raw).info["runs"]
    with caplog.at_level(logging.INFO, "millstream.etl"):
        result = run_etl(raw, spark, DATES[:2], BY_ONE)
    assert list(result.counts) == DATES[1:2]
    assert f"{DATES[0]}..{DATES[0]}: done before" in caplog.text
    assert f"2 of 2 passes, {DATES[1]}..{DATES[1]}: 40 rows" in caplog.text
    info = examples_of(raw).info
    assert list(info["states"]) == DATES[:2]
    assert info["runs"][DATES[0]] == before[DATES[0]]
    assert "backfill" not in info


def test_a_pass_that_is_made_anew_leaves_none_after_it_done() -> None:
    first, second, _ = ([ds] for ds in DATES)
    cut = Backfill("key", DATES[2], {DATES[0]: "as it was", DATES[1]: "as it was"})
    again = cut.with_pass(first, "landed again")
    assert again.has(first, "landed again")
    assert not again.has(second, "as it was")
    assert cut.with_pass(second, "landed again").has(first, "as it was")


@pytest.mark.slow
@pytest.mark.parametrize("changed", [0, 1])
def test_what_landed_again_since_is_made_again_with_all_that_rests_on_it(
    changed: int, tmp_path: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = cut_short(tmp_path / "cut", DATES, spark, monkeypatch)
    again = raw.folder / f"{DATES[changed]}.csv"
    again.write_text(again.read_text() + rows_of(DATES[changed], 41)[-1] + "\n")
    assert list(run_etl(raw, spark, DATES, BY_ONE).counts) == DATES[changed:]
    at_once = lands(tmp_path / "at_once")
    (at_once.folder / again.name).write_text(again.read_text())
    run_etl(at_once, spark, DATES)
    assert [statistics(raw, ds) for ds in DATES] == [statistics(at_once, ds) for ds in DATES]
    if changed == 1:
        # Of an earlier date the ids of the cut run stay.
        assert shard_contents(raw) == shard_contents(at_once)
        assert examples_of(raw).info["states"] == examples_of(at_once).info["states"]


def statistics(raw: Raw, ds: str) -> dict[str, NumericStats]:
    return load_state(lake_of(raw), examples_of(raw).info["states"][ds]).numeric


@pytest.mark.slow
def test_another_range_or_other_settings_skip_nothing(
    tmp_path: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = cut_short(tmp_path, DATES, spark, monkeypatch)
    settings = (BY_ONE, "etl.shard_rows=10")
    assert list(run_etl(raw, spark, DATES, *settings).counts) == DATES
    # A range that was finished is made anew.
    assert list(run_etl(raw, spark, DATES, *settings).counts) == DATES
