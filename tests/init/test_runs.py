"""What `init` writes runs as it is, from the raw file to the night."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs.lake.lake import Lake
from jobs.main import main
from tests.init.files import DAYS, Made, made, written


def run(found: Made, *arguments: str) -> int:
    command, *rest = arguments
    return main([command, "--config", str(found.config), "--quiet", *rest])


def odd_rows(count: int) -> list[str]:
    """Of `Order ID;größe;select;note "x";ds;a.b;day;late`: 1,5 is a text, as in half of Europe."""
    return [
        f'{i:05d};gro\u00df{i % 3};{i % 5};"a; {i % 4}";{i % 9};1,5;{i % 2 + 1}.03.2024;'
        f"{'ja' if i % 3 == 0 else 'nein'}"
        for i in range(count)
    ]


def test_odd_names_separators_dates_and_encodings_pass_the_etl(
    tmp_path: Path, spark: SparkSession, capsys: pytest.CaptureFixture[str]
) -> None:
    header = "Order ID;größe;select;no te;ds;a.b;day;late"
    file = written(tmp_path / "orders.csv", header, odd_rows(60), "latin-1")
    found = made(file, key=("Order ID",), date="day")
    assert run(found, "etl", "--dates", "2024-03-01..2024-03-02") == 0
    assert "quarantined 0" in capsys.readouterr().out
    lake = Lake(found.settings.lake_url, "orders")
    rows = lake.table("examples").read_arrow().to_pylist()
    assert {row["order_id"] for row in rows} == {f"{i:05d}" for i in range(60)}
    assert sorted({row["ds"] for row in rows}) == list(DAYS)
    assert {row["label"] for row in rows} == {0.0, 1.0}


def learnable(task: str, count: int = 900) -> list[str]:
    """Of `colour,weight,y`: y follows from both, with noise."""
    chance = random.Random(7)
    rows = []
    for _ in range(count):
        colour, weight = chance.choice("rgb"), round(chance.uniform(0, 10), 2)
        value = 300 * (colour == "r") + 60 * weight + chance.gauss(0, 60)
        y = {
            "binary": str(int(value > 400)),
            "regression": f"{value:.1f}",
            "multiclass": "low" if value < 250 else "mid" if value < 500 else "high",
        }[task]
        rows.append(f"{colour},{weight},{y}")
    return rows


@pytest.mark.slow
@pytest.mark.parametrize("task", ["binary", "regression", "multiclass"])
def test_every_step_runs_without_key_and_date_column(
    task: str, tmp_path: Path, spark: SparkSession, capsys: pytest.CaptureFixture[str]
) -> None:
    day = DAYS[0]
    file = written(tmp_path / "raw" / "paints.csv", "colour,weight,y", learnable(task))
    found = made(file, label="y", date=day)
    assert found.dataset.label.task == task
    assert run(found, "etl", "--date", day) == 0
    assert run(found, "train") == 0
    assert run(found, "evaluate") == 0
    assert run(found, "nightly", "--date", day) == 0
    assert "is the champion; 900 rows scored" in capsys.readouterr().out
