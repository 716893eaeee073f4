"""One small line, read by all tests of this folder: two dates of examples and a model."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from pyspark.sql import SparkSession

from jobs.settings.load import load_settings
from jobs.settings.settings import Settings
from tests.builders.lakes import run_etl
from tests.builders.models import register_model
from tests.builders.visits import Raw, rows_of

FIRST, SECOND, NIGHT = "2024-01-01", "2024-01-02", "2024-01-03"


@dataclass(frozen=True)
class Line:
    """Raw files of three dates, examples of the first two, and a model registered on them."""

    raw: Raw
    settings: Settings
    model: str


def night_rows() -> list[str]:
    """Rows to score: 61 without labels, with shops that no model has seen and nulls; 4 bad ones."""
    rows = [line.rsplit(",", 1)[0] + ",NA" for line in rows_of(NIGHT, 58)]
    return [
        *rows,
        f"{NIGHT},240103900,new_shop,2.5,30,NA",
        f"{NIGHT},240103901,NA,NA,NA,NA",
        # The label and its rules do not matter in scoring.
        f"{NIGHT},240103902,a,1.0,30,7",
        f"{NIGHT},240103903,a,many,30,NA",
        f"{NIGHT},240103904,a,1.0,130,NA",
        f"{NIGHT},240103900,z,1.0,30,NA",
        f"{NIGHT},240103905,a,1.0,30,NA,surplus",
    ]


@pytest.fixture(scope="package")
def line(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> Line:
    raw = Raw(tmp_path_factory.mktemp("line"))
    raw.add(rows_of(FIRST, 400, ("a", "b"))).add(rows_of(SECOND, 400))
    raw.add(night_rows()).write()
    run_etl(raw, spark, [FIRST, SECOND])
    settings = load_settings(raw.config)
    return Line(raw, settings, register_model(settings, SECOND))
