"""Contributions merge: rerun, late and chunked dates give the state of the dates in order."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs.lake.state import State, load_state
from tests.builders.lakes import examples_of, lake_of, run_etl
from tests.builders.visits import Raw, rows_of

DATES = ["2024-01-01", "2024-01-02", "2024-01-03"]
SHOPS = {DATES[0]: ("a", "b"), DATES[1]: ("b", "c", "d"), DATES[2]: ("d", "e")}


def write(folder: Path, rows: int = 40) -> Raw:
    return Raw(folder).add(line for ds in DATES for line in rows_of(ds, rows, SHOPS[ds])).write()


def state(raw: Raw, ds: str) -> State:
    return load_state(lake_of(raw), examples_of(raw).info["states"][ds])


def segments(raw: Raw) -> set[str]:
    return {file.path for file in lake_of(raw).table("id_log").files()}


def entries(raw: Raw) -> set[tuple[str, str, int]]:
    rows = lake_of(raw).table("id_log").read_arrow().to_pylist()
    return {(row["field"], row["value"], row["id"]) for row in rows}


@pytest.fixture(scope="module")
def in_order(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> Raw:
    raw = write(tmp_path_factory.mktemp("in_order"))
    run_etl(raw, spark, DATES)
    return raw


@pytest.mark.slow
def test_late_and_repeated_dates_count_once(
    in_order: Raw, tmp_path: Path, spark: SparkSession
) -> None:
    raw = write(tmp_path, rows=15)
    run_etl(raw, spark, [DATES[2]])
    first, log = entries(raw), segments(raw)
    write(tmp_path)
    for ds in (DATES[2], DATES[0], DATES[1], DATES[0]):
        run_etl(raw, spark, [ds])
        # Older dates append to the log, in files of their own; what stood there stays.
        assert log <= segments(raw)
        assert first <= entries(raw)
        log = segments(raw)
    assert state(raw, DATES[0]).numeric == state(in_order, DATES[0]).numeric
    run_etl(raw, spark, [DATES[2]])
    assert state(raw, DATES[2]).numeric == state(in_order, DATES[2]).numeric
    known = {value for field, value, _ in entries(raw) if field == "shop_id"}
    assert known == {value for field, value, _ in entries(in_order) if field == "shop_id"}
