"""Inference in Spark: training's own forward, whatever the partitions and batches."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.base.errors import DataRefused
from jobs.evaluate.predict.predict import (
    Predictor,
    _rebatched,
    _score_rows,
    check_model,
    loaded,
    predicted,
)
from jobs.lake.lake import Lake
from jobs.registry.registry import Registry
from schemas.dataset import ROW_ID
from tests.builders.lakes import example_rows
from tests.builders.models import scores_of
from tests.evaluate.conftest import Line


def _predictor(line: Line, batch_rows: int = 64) -> Predictor:
    lake = Lake(line.settings.lake_url, "visits")
    model = Registry(line.settings, lake).resolve(line.model)
    return Predictor.of(model, line.settings.dataset(), batch_rows)


def _stored(spark: SparkSession, line: Line, rows: pd.DataFrame) -> DataFrame:
    names = [column.name for column in line.settings.dataset().stored_columns()]
    columns = [f"{c.name} {c.spark_type}" for c in line.settings.dataset().stored_columns()]
    # NaN is what pandas makes of the null that is stored.
    values = rows[names].astype(object).where(rows[names].notna(), None)
    return spark.createDataFrame(values.to_dict("records"), ", ".join(columns))


@pytest.mark.parametrize(("partitions", "batch_rows"), [(1, 1), (1, 7), (20, 10_000)])
def test_scores_are_those_of_the_model(
    spark: SparkSession, line: Line, partitions: int, batch_rows: int
) -> None:
    rows = example_rows(line.raw)[:25]
    assert rows["age_years"].notna().any()
    rows.loc[:6, "age_years"] = np.nan
    # 25 rows in 20 partitions: some are empty, some have one row.
    frame = _stored(spark, line, rows).repartition(partitions, ROW_ID)

    found = predicted(frame, _predictor(line, batch_rows), [ROW_ID]).toPandas()

    found = found.set_index(ROW_ID)["score"].loc[rows[ROW_ID]]
    assert found.dtype == np.float32
    expected = scores_of(line.settings, line.model, rows)
    assert np.abs(found.to_numpy() - expected).max() <= 1e-6
    assert np.ptp(expected) > 0.01


def test_no_rows_give_no_scores(spark: SparkSession, line: Line) -> None:
    frame = _stored(spark, line, example_rows(line.raw)[:5]).where(F.lit(False))

    assert predicted(frame, _predictor(line), [ROW_ID]).collect() == []


def test_ids_are_mapped_to_those_of_the_model(spark: SparkSession, line: Line) -> None:
    rows = example_rows(line.raw)[:50]
    ids = np.arange(rows["shop_id"].max() + 1, dtype=np.int32)
    ids[rows["shop_id"].unique()] = 2

    found = predicted(
        _stored(spark, line, rows).coalesce(1), _predictor(line), [ROW_ID], {"shop_id": ids}
    ).toPandas()

    expected = scores_of(line.settings, line.model, rows.assign(shop_id=np.int32(2)))
    assert np.abs(found["score"].to_numpy() - expected).max() <= 1e-6
    assert np.abs(expected - scores_of(line.settings, line.model, rows)).max() > 1e-3


def test_a_worker_loads_the_model_once_and_keeps_to_its_cores(
    spark: SparkSession, line: Line, tmp_path: Path
) -> None:
    predictor = _predictor(line)
    # A place of its own, so that no worker has loaded it for another test.
    copied = replace(predictor, folder_url=str(tmp_path / "model"))
    shutil.copytree(predictor.folder_url, copied.folder_url)
    maps = spark.sparkContext.broadcast({})

    def loads(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import torch

        before = loaded.cache_info().misses
        rows = sum(batch.num_rows for batch in _score_rows(copied, [ROW_ID], maps, batches))
        loads_here = loaded.cache_info().misses - before
        found = [os.getpid(), loads_here, torch.get_num_threads(), rows]
        yield pa.RecordBatch.from_arrays([pa.array([n]) for n in found], list("pmtr"))

    frame = _stored(spark, line, example_rows(line.raw)[:50]).repartition(200)
    found = frame.mapInArrow(loads, "p long, m long, t long, r long").toPandas()

    assert found["r"].sum() == 50
    assert len(found) == 200
    assert found.groupby("p")["m"].sum().max() == 1
    assert found["t"].max() == 1


def test_other_weights_than_the_registered_ones_are_refused(line: Line, tmp_path: Path) -> None:
    predictor = _predictor(line)
    other = Predictor(predictor.folder_url, "0" * 32, predictor.dataset, 8)

    with pytest.raises(DataRefused, match=f"expected: digest {'0' * 32}"):
        check_model(other)


@pytest.mark.parametrize("sizes", [[], [0], [5], [3, 0, 9, 1], [10, 10], [1] * 11])
def test_rebatching_keeps_rows_and_order(sizes: list[int]) -> None:
    numbers = iter(range(sum(sizes)))
    batches = [
        pa.RecordBatch.from_arrays([pa.array([next(numbers) for _ in range(n)], pa.int64())], ["n"])
        for n in sizes
    ]

    tables = list(_rebatched(iter(batches), 4))

    assert [n for table in tables for n in table["n"].to_pylist()] == list(range(sum(sizes)))
    assert all(table.num_rows == 4 for table in tables[:-1])
    assert all(table.num_rows for table in tables)
