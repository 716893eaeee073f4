"""A lake of three dates, of which the first was made twice; each test works on a copy of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from tests.builders.lakes import run_etl
from tests.builders.visits import Raw, rows_of

DATES = ["2024-01-01", "2024-01-02", "2024-01-03"]
REFUSED = [f"{ds},5,a,1,30,NA" for ds in DATES]
SMALL = ("etl.shard_rows=20", "etl.row_group_rows=8")


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> Raw:
    lines = [line for ds in DATES for line in rows_of(ds, 60)]
    raw = Raw(tmp_path_factory.mktemp("made")).add([*lines, *REFUSED]).write()
    run_etl(raw, spark, DATES, *SMALL)
    run_etl(raw, spark, DATES[:1], *SMALL)
    return raw


@pytest.fixture
def raw(made: Raw, tmp_path: Path) -> Raw:
    return made.copy(tmp_path / "copy")
