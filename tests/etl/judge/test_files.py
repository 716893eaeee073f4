"""Judged rows scanned again: each row by one task, in its place, however rows are cut."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from jobs.etl.judge.files import (
    FILE,
    NEW_ID,
    PATCHES,
    ROW_NUMBER,
    JudgedFile,
    ValidRows,
    _stretches,
)
from schemas.dataset import ROW_ID

FILES = (JudgedFile(0, "a.parquet", (5, 1, 7), 0), JudgedFile(3, "b.parquet", (2,), 0))
ROWS = sum(file.rows for file in FILES)


@pytest.mark.parametrize("tasks", [1, 2, 3, 7, ROWS, 2 * ROWS])
def test_stretches_hold_each_row_once_and_in_order(tasks: int) -> None:
    sizes, places = [], []
    for number in range(tasks):
        own = list(_stretches(FILES, number, tasks))
        sizes.append(sum(one.stop - one.start for one in own))
        for one in own:
            groups = one.file.row_group_rows
            assert one.first == sum(groups[: one.group])
            assert one.first <= one.start < one.stop <= one.first + groups[one.group]
            places += [(one.file.number, place) for place in range(one.start, one.stop)]

    assert places == [(file.number, place) for file in FILES for place in range(file.rows)]
    assert max(sizes) - min(sizes) <= 1


def _written(folder: Path) -> list[int]:
    """The files, with row ids counted through, and patches; what is to be found."""
    for file, first in zip(FILES, (0, 13), strict=True):
        with pq.ParquetWriter(folder / file.path, pa.schema([(ROW_ID, pa.int64())])) as writer:
            for rows in file.row_group_rows:
                writer.write_table(pa.table({ROW_ID: np.arange(first, first + rows)}))
                first += rows
    new = pa.array([-4, None, -12], pa.int64())
    patch = pa.table({FILE: [0, 0, 0], ROW_NUMBER: [4, 5, 12], NEW_ID: new})
    (folder / PATCHES).mkdir()
    pq.write_table(patch, folder / PATCHES / "0-0.parquet")
    return [{4: -4, 12: -12}.get(row, row) for row in range(ROWS) if row != 5]


def _ids(tables: Iterator[pa.Table]) -> Iterator[pa.RecordBatch]:
    for table in tables:
        yield from table.to_batches()


def test_patches_meet_their_rows_in_any_stretch(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = _written(tmp_path)
    for rows_per_task in (1, 4, 1_000):
        monkeypatch.setattr("jobs.etl.judge.files._ROWS_PER_TASK", rows_per_task)
        rows = ValidRows(spark, str(tmp_path), FILES, patches=True)
        found: list[Any] = rows.in_arrow([ROW_ID], _ids, f"{ROW_ID} bigint").collect()
        assert [row[0] for row in found] == expected
