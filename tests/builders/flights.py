"""The first days of the flights data as they would land: a file of flights a date.

The declaration is that of the demo without its joins and most of its fields: planning a query of
all of them takes Spark longer than a night's few rows.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from schemas.dataset import Dataset
from schemas.field import Carried, Categorical, Label, Log1p, Numeric
from schemas.flights import FLIGHTS
from tests.builders.processes import ROOT
from tools import fetch_flights

FEW = Dataset(
    name="flights",
    sources=FLIGHTS.sources[:1],
    rows="flights",
    ds=FLIGHTS.ds,
    key=FLIGHTS.key,
    fields=(
        Label("late", "CAST(arr_delay > 15 AS FLOAT)"),
        Numeric("departure_minutes", "hour * 60 + minute"),
        Numeric("distance_log", "distance", (Log1p(),)),
        Categorical("airline", "carrier"),
        Categorical("destination", "dest", min_count=5),
        Categorical("plane", "tailnum", min_count=3, oov_buckets=4),
        Carried("origin"),
    ),
)
SPARK = (
    "spark.master local[2]\n"
    "spark.driver.memory 1g\n"
    "spark.driver.extraJavaOptions -XX:TieredStopAtLevel=1\n"
    "spark.driver.host localhost\n"
    "spark.driver.bindAddress 127.0.0.1\n"
    "spark.ui.enabled false\n"
    "spark.ui.showConsoleProgress false\n"
    "spark.sql.shuffle.partitions 2\n"
    # Compiling code for so few rows costs more than interpreting the plans.
    "spark.sql.codegen.wholeStage false\n"
    "spark.sql.codegen.factoryMode NO_CODEGEN\n"
)


def dates(count: int) -> list[str]:
    return [str(dt.date(2013, 1, 1) + dt.timedelta(day)) for day in range(count)]


def land(folder: Path, days: Sequence[str], rows: int) -> None:
    """Writes `raw/DATE/flights.csv` with a date's first rows, and Spark's properties."""
    shipped = ROOT / "data" / "raw"
    if not (shipped / "flights.csv").exists():
        shipped = folder / "shipped"
        fetch_flights.main(shipped)
    header, *lines = (shipped / "flights.csv").read_text(encoding="utf-8").splitlines()
    for ds in days:
        day = dt.date.fromisoformat(ds)
        start = f"{day.year},{day.month},{day.day},"
        found = [line for line in lines if line.startswith(start)][:rows]
        assert len(found) == rows
        _write(folder / "raw" / ds / "flights.csv", [header, *found])
    (folder / "spark.conf").write_text(SPARK)


def _write(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def configure(folder: Path, lake: str, place: str = "") -> Path:
    """A settings file for a lake beside the raw files: small batches, two ranks.

    Args:
        place: URL of another store's folder, which has the raw files and will have the lake.
    """
    rule = {"metric": "auc", "min_value": 0.0, "min_rows": 1, "min_gain": 0}
    tree: dict[str, Any] = {
        "schema": "tests.builders.flights:FEW",
        "lake": lake,
        "etl": {
            "sources": {"flights": "raw/{ds}/flights.csv"},
            "row_group_rows": 64,
        },
        "stream": {"streams": 8, "window_rows": 128},
        "train": {
            "batch_rows": 64,
            "epochs": 3,
            "hidden": [16],
            "max_embedding_dim": 4,
            "workers": 2,
            "commit_steps": 2,
            "checkpoint_rows": 128,
            "restarts": 0,
        },
        "evaluate": {"batch_rows": 1024},
        "gate": {"rules": [rule], "rows": "all"},
        "spark": {"properties_file": "spark.conf"},
    }
    if place:
        tree["lake"] = f"{place}/{lake}"
        tree["etl"]["sources"]["flights"] = f"{place}/raw/{{ds}}/flights.csv"
        tree["mlflow"] = {"tracking_uri": f"sqlite:///{folder}/{lake}.db"}
    path = folder / f"{lake}.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path
