"""Predictions: what is staged is read again and checked before anyone sees it."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs.base.errors import DataRefused
from jobs.evaluate.predict.predictions import content, predictions_schema, verified
from jobs.lake.tables import Table
from tests.builders.visits import VISITS

ROWS = [
    (11, 1, "a", 0.25, "7", "score-1", "2024-01-01"),
    (12, 2, "b", 0.75, "7", "score-1", "2024-01-01"),
    (13, 1, None, 0.5, "7", "score-1", "2024-01-02"),
]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((14, 2, "b", 0.1, "7", "score-1", "2024-01-01"), "more than one row: ds=2024-01-01, vis"),
        ((14, 9, "b", None, "7", "score-1", "2024-01-02"), "finite score: ds=2024-01-02, visit=9"),
        ((14, 9, "b", float("inf"), "7", "score-1", "2024-01-02"), "no finite score"),
    ],
)
def test_a_key_stands_once_with_a_number(
    spark: SparkSession, tmp_path: Path, row: tuple[object, ...], message: str
) -> None:
    table, schema = Table(str(tmp_path / "predictions")), predictions_schema(VISITS)
    sound = table.stage(spark.createDataFrame(ROWS, schema), "score-1", ["ds"])
    assert {ds: c.rows for ds, c in verified(spark, VISITS, table, sound).items()} == {
        "2024-01-01": 2,
        "2024-01-02": 1,
    }

    bad = table.stage(spark.createDataFrame([*ROWS, row], schema), "score-2", ["ds"])

    with pytest.raises(DataRefused, match=message):
        verified(spark, VISITS, table, bad)
    table.discard("score-2")
    assert [path.name for path in Path(table.url).iterdir()] == ["run=score-1"]


def test_content_depends_on_the_data_alone(spark: SparkSession) -> None:
    schema = predictions_schema(VISITS)
    rows = spark.createDataFrame(ROWS, schema)
    replayed = [(*row[:5], "score-2", row[6]) for row in reversed(ROWS)]
    changed = [(*row[:3], row[3] + 0.01, *row[4:]) for row in ROWS]

    assert content(spark.createDataFrame(replayed, schema), VISITS) == content(rows, VISITS)
    assert content(spark.createDataFrame(changed, schema), VISITS) != content(rows, VISITS)
