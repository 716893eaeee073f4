"""The predictions table: its columns, what a date's rows hold, and their check before a commit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from jobs.base.errors import DataRefused
from jobs.etl.names import DS, RAW, REASONS, SOURCE_FILE
from jobs.evaluate.predict.predict import SCORE, score_columns
from jobs.lake.files import NewFile
from jobs.lake.manifest import UINT64
from jobs.lake.tables import Table
from schemas.dataset import ROW_ID, Dataset, struct_type
from schemas.field import Carried

MODEL_VERSION, RUN_ID = "model_version", "run_id"


@dataclass(frozen=True)
class Content:
    """What a date's rows hold, whatever their order: their number and their hashes' sum.

    The run is no part of it, so a replay has the same content.
    """

    rows: int
    digest: int
    model_version: str = ""


def kept_columns(dataset: Dataset) -> list[str]:
    """What a prediction keeps of its row: row id, key and carried fields."""
    kept = {ROW_ID, *dataset.key, *(f.name for f in dataset.of_kind(Carried))}
    return [column.name for column in dataset.stored_columns() if column.name in kept]


def predictions_schema(dataset: Dataset) -> StructType:
    types = {column.name: column.spark_type for column in dataset.stored_columns()}
    own = [*score_columns(dataset), (MODEL_VERSION, "string"), (RUN_ID, "string"), (DS, "string")]
    return struct_type([*((name, types[name]) for name in kept_columns(dataset)), *own])


def verified(
    spark: SparkSession, dataset: Dataset, table: Table, files: Sequence[NewFile]
) -> dict[str, Content]:
    """Reads staged files again: each key once, each score a number.

    Raises:
        DataRefused: a key stands twice, or has no finite score; the message names it.
    """
    paths = [f"{table.url}/{file.path}" for file in files]
    reader = spark.read.schema(predictions_schema(dataset)).option("basePath", table.url)
    written = reader.parquet(*paths)
    not_finite = F.col(SCORE).isNull() | ~(F.abs(SCORE) < float("inf"))
    # Of rows without a key the row id is the only trace.
    identity = (DS, *(dataset.key or (ROW_ID,)))
    keys = written.groupBy(*identity).agg(
        F.count(F.lit(1)).alias("rows"), F.count_if(not_finite).alias("lost")
    )
    for wrong in keys.where((F.col("rows") > 1) | (F.col("lost") > 0)).limit(1).collect():
        key = ", ".join(f"{name}={wrong[name]}" for name in identity)
        what = "has no finite score" if wrong["lost"] else "stands in more than one row"
        raise DataRefused(
            f"a prediction {what}: {key}",
            "one row a key, each with a finite score",
            "nothing was committed; evaluate the model before scoring with it",
        )
    return content(written, dataset)


def content(predictions: DataFrame, dataset: Dataset) -> dict[str, Content]:
    """What predictions hold, by date."""
    said = [name for name, _ in score_columns(dataset)]
    found = predictions.groupBy(DS).agg(
        F.count(F.lit(1)).alias("rows"),
        F.sum(F.xxhash64(*kept_columns(dataset), *said)).alias("digest"),
        F.array_join(F.array_sort(F.collect_set(MODEL_VERSION)), ",").alias(MODEL_VERSION),
    )
    return {
        row[DS]: Content(row["rows"], row["digest"] % UINT64, row[MODEL_VERSION])
        for row in found.collect()
    }


def refused_content(rows: DataFrame) -> dict[str, Content]:
    """What quarantined rows hold, by date."""
    found = rows.groupBy(DS).agg(
        F.count(F.lit(1)).alias("rows"),
        F.sum(F.xxhash64(REASONS, RAW, SOURCE_FILE)).alias("digest"),
    )
    return {row[DS]: Content(row["rows"], row["digest"] % UINT64) for row in found.collect()}
