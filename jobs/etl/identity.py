"""Identity: the row id of each row, and which rows of a date are one and the same.

A row with a key is identified by it: of valid rows with one key the first by (raw text, source
file) stays. A row without is identified by its line and the line's ordinal among identical ones,
all of which stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pyspark.sql import Column as SparkColumn
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from jobs.etl.ingest import DS, RAW, REASONS, SOURCE_FILE
from jobs.etl.reasons import joined
from schemas.dataset import ROW_ID, Dataset

# The driver holds so many hashes at most.
_MANY = 10_000
_SAME, _COUNT = "__same", "__count"


@dataclass(frozen=True)
class Survey:
    """What is known of the raw rows before they are judged.

    Attributes:
        rows: number of raw rows by `ds`.
        repeated: hashes of (`ds`, key or line) that more than one row has; None: too many to list.
    """

    rows: Mapping[str, int]
    repeated: tuple[int, ...] | None


def surveyed(rows: DataFrame, dataset: Dataset) -> Survey:
    """Counts the rows of each date and lists what stands in more than one row.

    Args:
        rows: with `ds`, and the key columns or `raw`.
    """
    counts = rows.groupBy(DS, _same(dataset).alias(_SAME)).agg(F.count(F.lit(1)).alias(_COUNT))
    counts = counts.persist()
    try:
        repeated = F.sum((F.col(_COUNT) > 1).cast("int")).alias("repeated")
        by_ds = counts.groupBy(DS).agg(F.sum(_COUNT).alias("rows"), repeated).collect()
        several = sum(row["repeated"] for row in by_ds)
        hashes: list[int] | None = None if several > _MANY else []
        if hashes is not None and several:
            hashes = [row[_SAME] for row in counts.where(F.col(_COUNT) > 1).collect()]
    finally:
        counts.unpersist()
    return Survey(
        {row[DS]: row["rows"] for row in by_ds},
        None if hashes is None else tuple(sorted(hashes)),
    )


def identified(rows: DataFrame, dataset: Dataset, survey: Survey) -> DataFrame:
    """Adds the row id, and to repetitions of a key the reason `duplicate_key`.

    Only rows that the survey found repeated are compared with each other.

    Args:
        rows: with `ds`, the key columns, `raw`, `source_file`, and `reasons` as one text.

    Returns:
        The rows with `row_id`, and with `reasons` as an array, empty where a row is valid.
    """
    ordered = _ordered_by_key if dataset.key else _ordered_by_line
    if survey.repeated is None:
        rows = ordered(rows, dataset)
    elif survey.repeated:
        # Of the columns that are read first, so that other lines need not be parsed for it.
        repeated = is_repeated(dataset, survey.repeated)
        several = ordered(rows.where(repeated), dataset)
        rows = rows.where(~repeated).withColumn(_ORDINAL, F.lit(1)).unionByName(several)
    else:
        rows = rows.withColumn(_ORDINAL, F.lit(1))
    rows = _with_row_id(rows, dataset)
    none = F.array().cast("array<string>")
    reasons = F.when(F.col(REASONS) == "", none).otherwise(F.split(REASONS, ","))
    return rows.withColumn(REASONS, reasons).drop(_ORDINAL)


_ORDINAL = "__ordinal"


def is_repeated(dataset: Dataset, hashes: Sequence[int]) -> SparkColumn:
    """Whether a row's hash is among those that more than one row has."""
    if not hashes:
        return F.lit(False)
    return F.expr(f"{_same_sql(dataset)} IN ({', '.join(f'{value}L' for value in hashes)})")


def id_of_single_line(dataset: Dataset) -> SparkColumn:
    """The row id of a valid row without a key whose line stands once."""
    return F.xxhash64(_same(dataset), F.lit(1))


def _same_sql(dataset: Dataset) -> str:
    return f"xxhash64({', '.join([DS, *[f'`{name}`' for name in dataset.key or (RAW,)]])})"


def _same(dataset: Dataset) -> SparkColumn:
    """The same for rows with one key, or for identical lines, of a date."""
    return F.expr(_same_sql(dataset))


def _ordered_by_key(rows: DataFrame, dataset: Dataset) -> DataFrame:
    """Refuses the valid rows of a key after the first."""
    valid = F.col(REASONS) == ""
    same = Window.partitionBy(_same(dataset), DS, *dataset.key, valid).orderBy(RAW, SOURCE_FILE)
    rows = rows.withColumn(_ORDINAL, F.row_number().over(same))
    repeated = F.when(valid & (F.col(_ORDINAL) > 1), F.lit("duplicate_key"))
    return rows.withColumn(REASONS, joined([repeated], F.col(REASONS)))


def _ordered_by_line(rows: DataFrame, dataset: Dataset) -> DataFrame:
    """Counted among lines of one hash, so that lines whose hashes collide differ too."""
    same = Window.partitionBy(_same(dataset)).orderBy(RAW, SOURCE_FILE)
    return rows.withColumn(_ORDINAL, F.row_number().over(same))


def _with_row_id(rows: DataFrame, dataset: Dataset) -> DataFrame:
    """64-bit hash of (ds, key); refused rows have that of their line, as their key may be null."""
    key = _same(dataset)
    if not dataset.key:
        # Of a long this is one to one: lines that differ in their hash do in their row id.
        key = F.xxhash64(_same(dataset), F.col(_ORDINAL))
    line = F.xxhash64(RAW, SOURCE_FILE)
    return rows.withColumn(ROW_ID, F.when(F.col(REASONS) == "", key).otherwise(line))
