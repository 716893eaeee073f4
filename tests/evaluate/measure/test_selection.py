"""Rows that models are measured on: how many of their ids a model reads otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs.etl.fit import history
from jobs.evaluate.measure.selection import Selection, early_share
from jobs.lake.examples import Examples
from jobs.lake.state import load_state
from tests.builders.lakes import example_rows, lake_of, run_etl
from tests.builders.visits import Raw, rows_of

FIRST, SECOND = "2024-01-01", "2024-01-02"


@pytest.mark.parametrize("driver_rows", [10_000_000, 0])
def test_early_ids_are_those_of_train_rows_before_their_value_had_one(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver_rows: int
) -> None:
    monkeypatch.setattr(history, "_DRIVER_ROWS", driver_rows)
    # Once a date, so that they have no entry before the second.
    rare = tuple(f"rare{number}" for number in range(40))
    raw = Raw(tmp_path)
    for ds in (FIRST, SECOND):
        raw.add(rows_of(ds, 100, ("a", "b"))).add(rows_of(ds, 140, rare)[100:])
    raw.write()
    run_etl(raw, spark, [FIRST, SECOND])
    lake = lake_of(raw)
    examples = Examples.open(lake.table("examples").url)
    state = load_state(lake, examples.info["states"][SECOND])

    shares = [
        early_share(spark, lake, Selection(examples, "test", first, SECOND), [state])
        for first in (FIRST, SECOND)
    ]

    log = lake.table("id_log").read_arrow().to_pandas()
    late = log[(log["from_ds"] > FIRST) & (log["field"] == "shop_id")]
    rows = example_rows(raw)
    rows = rows[rows["split"] == "train"]
    early = ((rows["ds"] == FIRST) & rows["shop"].isin(late["value"])).sum()
    ids = (rows[["shop_id", "age_group"]] != 1).sum().sum()
    assert early > 10
    assert shares == [pytest.approx(early / ids), 0]
