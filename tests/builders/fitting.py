"""Contributions of rows, made as the ETL makes them."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence

from pyspark.sql import DataFrame

from jobs.etl.contributions import CONTRIBUTIONS, stage_contributions
from jobs.etl.kept import keep
from jobs.lake.tables import Table
from schemas.dataset import Dataset


def contributions(rows: DataFrame, dataset: Dataset, dates: Sequence[str]) -> DataFrame:
    """What the rows add, as `CONTRIBUTIONS`."""
    spark = rows.sparkSession
    with tempfile.TemporaryDirectory() as folder:
        table = Table(f"{folder}/contributions")
        files = stage_contributions(keep(rows, f"{folder}/kept"), dataset, dates, table, "made")
        if not files:
            return spark.createDataFrame([], CONTRIBUTIONS)
        read = spark.read.schema(CONTRIBUTIONS).option("basePath", f"{table.url}/run=made")
        found = read.parquet(*[f"{table.url}/{file.path}" for file in files])
        return spark.createDataFrame(found.collect(), CONTRIBUTIONS)
