"""Dates of long ago added up in few files: a run learns from them what it learns from the dates."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as bounded
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from jobs.etl.fit import condensed as condensing
from jobs.etl.fit import history as histories
from jobs.etl.fit.condensed import condensed, known_files, paths_to_keep
from jobs.etl.fit.entries import new_entries
from jobs.etl.fit.expect import bins_until
from jobs.etl.fit.history import CountHistory
from jobs.etl.fit.states import states
from jobs.main import main
from tests.builders.fitting import entries_of, history_of
from tests.builders.lakes import examples_of, lake_of, run_etl, shard_contents
from tests.builders.visits import Raw, rows_of
from tests.etl.fit.test_entries import dataset

DATES = [str(dt.date(2024, 1, 1) + dt.timedelta(days)) for days in range(12)]
Rows = Sequence[tuple[str, float | None]]


@pytest.fixture(autouse=True)
def few_dates_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(condensing, "_RECENT_DATES", 2)
    monkeypatch.setattr(condensing, "_MOST_DATES", 4)


def made(spark: SparkSession, folder: Path, by_date: Sequence[Rows]) -> CountHistory:
    tables = [
        pa.table(
            {
                "ds": [ds] * len(rows),
                "word_id": pa.array([word or None for word, _ in rows], pa.string()),
                "x": pa.array([x for _, x in rows], pa.float64()),
            }
        )
        for ds, rows in zip(DATES, by_date, strict=False)
    ]
    return history_of(spark, folder, tables, dataset(), DATES[: len(by_date)], of_values=2)


def fitted(history: CountHistory, dates: Sequence[str]) -> tuple[object, ...]:
    """All that follows from the counts for a run of the dates."""
    known = entries_of([("word_id", "a", 2, DATES[0])])
    new = new_entries(history.up_to(max(dates)), known, dataset(), dates)
    found = states(history, pa.concat_tables([known, new]), dataset(), dates, 0, 1)
    bins = bins_until(history, dataset(), max(dates))
    return new.to_pylist(), [state.digest for state in found], bins


_ROW = st.tuples(
    st.sampled_from(["a", "b", "c", "", "é"]),
    st.none() | st.sampled_from([-1e9, -3.5, 0.0, 0.1, 1e-9, 2.0**29, 1e9]),
)


@bounded(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    by_date=st.lists(st.lists(_ROW, min_size=1, max_size=6), min_size=6, max_size=9),
    again=st.integers(1, 2),
)
def test_a_run_learns_the_same_from_dates_added_up(
    spark: SparkSession, tmp_path: Path, by_date: list[Rows], again: int
) -> None:
    history = made(spark, tmp_path, [[("a", 1.0)], *by_date])
    dates = history.dates[-again:]
    short = condensed(history, dates[0])
    assert len(short.files) < len(history.files)
    assert fitted(short, dates) == fitted(history, dates)


@pytest.mark.parametrize("driver_rows", [10_000_000, 0])
def test_what_was_added_up_is_used_until_a_date_of_it_changes(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver_rows: int
) -> None:
    monkeypatch.setattr(histories, "_DRIVER_ROWS", driver_rows)
    history = made(spark, tmp_path, [[("a", float(day)), ("b", None)] for day in range(12)])
    early = history.up_to(DATES[5])
    first = condensed(early, DATES[5])
    assert {f.partition["ds"] for f in first.files} == {*DATES[2:6]}
    # Up to five further dates are read beside it, then all but the newest two are added up again.
    later = condensed(history.up_to(DATES[7]), DATES[7])
    assert [f for f in later.files if f in first.files] == list(first.files)
    last = condensed(history, DATES[11])
    assert {f.partition["ds"] for f in last.files} == {*DATES[8:]}
    assert fitted(last, DATES[11:]) == fitted(history, DATES[11:])
    folder = Path(history.url, condensing.FOLDER)
    assert len(list(folder.iterdir())) == 1
    # A date among them is made again.
    moved = Path(history.url, f"ds={DATES[3]}", "part-new.parquet")
    old = next(f for f in history.files if f.partition["ds"] == DATES[3])
    moved.write_bytes(Path(history.url, old.path).read_bytes())
    new = replace(old, path=str(moved.relative_to(history.url)))
    changed = replace(history, files=tuple(new if f is old else f for f in history.files))
    assert known_files(history.url, changed.files) == []
    assert fitted(condensed(changed, DATES[11]), DATES[11:]) == fitted(history, DATES[11:])


def test_one_that_is_torn_is_not_used(spark: SparkSession, tmp_path: Path) -> None:
    history = made(spark, tmp_path, [[("a", float(day))] for day in range(9)])
    short = condensed(history, DATES[8])
    assert paths_to_keep(history.url, history.files) > {
        f.path for f in short.files if f.path.startswith(condensing.FOLDER)
    }
    Path(history.url, short.files[0].path).unlink()
    assert known_files(history.url, history.files) == []
    assert fitted(condensed(history, DATES[8]), DATES[8:]) == fitted(history, DATES[8:])


def test_a_run_before_them_reads_its_own_past(spark: SparkSession, tmp_path: Path) -> None:
    history = made(spark, tmp_path, [[("a", float(day))] for day in range(12)])
    condensed(history, DATES[11])
    late = condensed(history, DATES[6])
    assert {f.partition["ds"] for f in late.files} >= {*DATES[6:]}
    assert fitted(late, DATES[6:7]) == fitted(history, DATES[6:7])


@pytest.mark.parametrize("store", ["s3", pytest.param("hdfs", marks=pytest.mark.slow)])
@pytest.mark.parametrize("driver_rows", [10_000_000, 0])
def test_on_other_stores(
    spark: SparkSession,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    store: str,
    driver_rows: int,
) -> None:
    server = request.getfixturevalue(store)
    for name, value in server.environment.items():
        monkeypatch.setitem(spark.sparkContext.environment, name, value)
    monkeypatch.setattr(histories, "_DRIVER_ROWS", driver_rows)
    own = made(spark, tmp_path, [[("a", float(day)), ("b", None)] for day in range(11)])
    url = server.url(f"condensed-{tmp_path.name}")
    fs, root = fsspec.core.url_to_fs(url)
    fs.put(f"{own.url}/", f"{root}/", recursive=True)
    history = replace(own, url=url)
    for last in (8, 9, 10):
        ds = DATES[last]
        short = condensed(history.up_to(ds), ds)
        assert len(short.files) < len(history.up_to(ds).files)
        assert fitted(short, [ds]) == fitted(own.up_to(ds), [ds])
    assert known_files(url, history.files)


def test_nights_are_as_without(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a date made again, a late one, and a vacuum between."""
    dates = DATES[:7]
    shops = {ds: "abcdefgh"[n % 5 :] for n, ds in enumerate(dates)}
    lines = [line for ds in dates for line in rows_of(ds, 20, shops[ds])]
    found = []
    for most in (96, 2):
        monkeypatch.setattr(condensing, "_MOST_DATES", most)
        raw = Raw(tmp_path / str(most)).add(lines).write()
        folder = Path(lake_of(raw).table("contributions").url, condensing.FOLDER)
        for ds in [*dates[:2], *dates[3:6], dates[0], dates[2], dates[6]]:
            run_etl(raw, spark, [ds])
            if ds == dates[5]:
                before = sorted(folder.rglob("*"))
                assert bool(before) == (most == 2)
                options = ("--config", str(raw.config), "--older-than", "0", "--quiet")
                assert main(["vacuum", *options]) == 0
                assert sorted(folder.rglob("*")) == before
        states_of = {ds: examples_of(raw).info["states"][ds] for ds in dates}
        rows = lake_of(raw).table("id_log").read_arrow().drop_columns(["run"]).to_pylist()
        entries = sorted(rows, key=lambda row: (row["field"], row["id"]))
        found.append((entries, shard_contents(raw), sorted(states_of.items())))
    assert found[0] == found[1]
