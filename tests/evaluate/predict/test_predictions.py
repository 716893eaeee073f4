"""Predictions: what is staged is read again and checked before anyone sees it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from jobs.evaluate.predict import predictions
from jobs.evaluate.predict.predictions import (
    MODEL_VERSION,
    RUN_ID,
    content,
    contents,
    predictions_of_file,
    scored_schema,
    wrong_row,
)
from jobs.evaluate.predict.stage import DayFiles
from jobs.lake.files import NewFile
from jobs.rows.base.names import DS
from schemas.dataset import ROW_ID
from tests.builders.visits import VISITS

Row = tuple[object, ...]
ROWS: list[Row] = [(11, 1, "a", 0.25), (12, 2, "b", 0.75), (13, 3, None, 0.5)]


def table_of(rows: Sequence[Row], run: str = "score-1", version: str = "7") -> pa.Table:
    schema = scored_schema(VISITS)
    values = zip(*rows, strict=True)
    table = pa.table([pa.array(v, f.type) for v, f in zip(values, schema, strict=True)], schema)
    for name, value in ((MODEL_VERSION, version), (RUN_ID, run)):
        table = table.append_column(name, pa.array([value] * len(rows)))
    return table


@pytest.mark.parametrize("group", [1, 2, 9])
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (ROWS, ""),
        # Two keys with one row id are two rows.
        ([*ROWS, (13, 4, "b", 0.1)], ""),
        ([*ROWS[:2], (12, 2, "b", 0.1)], "more than one row: ds=2024-01-01, visit=2"),
        ([*ROWS, (14, 9, "b", np.nan)], "finite score: ds=2024-01-01, visit=9"),
        ([*ROWS, (14, 9, "b", -np.inf), (15, 10, "b", 0.1)], "no finite score"),
        ([*ROWS, (14, 9, "b", None)], "no finite score"),
    ],
)
def test_a_key_stands_once_with_a_number(rows: list[Row], message: str, group: int) -> None:
    whole = table_of(rows)
    groups = [whole.slice(start, group) for start in range(0, len(rows), group)]

    found = wrong_row(groups, "2024-01-01", VISITS)

    assert message in found
    assert bool(message) == bool(found)


def test_content_depends_on_the_data_alone() -> None:
    changed = [(*row[:3], 0.01) for row in ROWS]

    assert content(table_of(ROWS[::-1], "score-2"), VISITS) == content(table_of(ROWS), VISITS)
    assert content(table_of(changed), VISITS) != content(table_of(ROWS), VISITS)
    assert content(table_of(ROWS, version="8"), VISITS) != content(table_of(ROWS), VISITS)


def test_files_are_added_up_by_date_by_the_driver_and_by_tasks(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = []
    for number, ds in enumerate(["2024-01-01", "2024-01-02", "2024-01-01"]):
        pq.write_table(table_of(ROWS[number:]), tmp_path / f"{number}.parquet", row_group_size=2)
        files.append(NewFile(f"{number}.parquet", {DS: ds}, 0, (len(ROWS) - number,)))
    read = partial(predictions_of_file, VISITS)

    found = contents(spark, str(tmp_path), files, read)
    monkeypatch.setattr(predictions, "_DRIVER_ROWS", 1)

    assert found == contents(spark, str(tmp_path), files, read)
    assert found == {
        "2024-01-01": content(table_of([*ROWS, ROWS[2]]), VISITS),
        "2024-01-02": content(table_of(ROWS[1:]), VISITS),
    }


def test_files_of_a_date_are_ranges_of_row_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.evaluate.predict.stage._FILE_ROWS", 1_000)
    days = DayFiles.of({"2024-01-01": 4_500, "2024-01-02": 0, "2024-01-03": 10})
    ids = np.random.default_rng(1).integers(-(1 << 63), (1 << 63) - 1, 4_500)
    ids[:2] = -(1 << 63), (1 << 63) - 1
    first = pa.table({ROW_ID: ids, DS: ["2024-01-01"] * len(ids)})

    found = days.numbers(first)

    assert days.files == [*(("2024-01-01", file) for file in range(5)), ("2024-01-03", 0)]
    ordered = found[np.argsort(ids)]
    assert (np.diff(ordered) >= 0).all()
    assert np.bincount(found).min() > 700
    assert set(days.numbers(pa.table({ROW_ID: ids[:9], DS: ["2024-01-03"] * 9}))) == {5}
