"""Identity: the row id of each row, and which rows of a date are one and the same.

A row with a key is identified by it: of valid rows with one key the first by (raw text, source
file) stays. A row without is identified by its line and the line's ordinal among identical ones,
all of which stay.
"""

from __future__ import annotations

from pyspark.sql import Column as SparkColumn
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from jobs.etl.ingest import DS, RAW, REASONS, SOURCE_FILE, joined
from schemas.dataset import ROW_ID, Dataset

_LINE = "__line"


def identified(rows: DataFrame, dataset: Dataset) -> DataFrame:
    """Adds the row id, and to repetitions of a key the reason `duplicate_key`.

    Args:
        rows: with `ds`, the key columns, `raw`, `source_file`, and `reasons` as one text.

    Returns:
        The rows with `row_id`, and with `reasons` as an array, empty where a row is valid.
    """
    rows = _by_key(rows, dataset) if dataset.key else _by_line(rows)
    none = F.array().cast("array<string>")
    reasons = F.when(F.col(REASONS) == "", none).otherwise(F.split(REASONS, ","))
    return rows.withColumn(REASONS, reasons)


def _by_key(rows: DataFrame, dataset: Dataset) -> DataFrame:
    valid = F.col(REASONS) == ""
    key = F.xxhash64(F.col(DS), *[F.col(name) for name in dataset.key])
    rows = rows.withColumn(ROW_ID, _of_valid(key))
    same = Window.partitionBy(ROW_ID, DS, *dataset.key, valid).orderBy(RAW, SOURCE_FILE)
    repeated = F.when(valid & (F.row_number().over(same) > 1), F.lit("duplicate_key"))
    return rows.withColumn(REASONS, joined([F.col(REASONS), repeated]))


def _by_line(rows: DataFrame) -> DataFrame:
    """The ordinal is counted among lines of one hash, so that lines whose hashes collide differ."""
    same = Window.partitionBy(DS, _LINE).orderBy(RAW, SOURCE_FILE)
    numbered = rows.withColumn(_LINE, F.xxhash64(RAW)).withColumn("__n", F.row_number().over(same))
    key = F.xxhash64(DS, _LINE, "__n")
    return numbered.withColumn(ROW_ID, _of_valid(key)).drop(_LINE, "__n")


def _of_valid(key: SparkColumn) -> SparkColumn:
    """Refused rows have the hash of their line, as their key may be null."""
    return F.when(F.col(REASONS) == "", key).otherwise(F.xxhash64(RAW, SOURCE_FILE))
