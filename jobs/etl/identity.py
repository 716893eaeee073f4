"""Identity: the row id of each row, and which rows of a date are one and the same.

A row with a key is identified by it: of valid rows with one key the first by (raw text, source
file) stays. A row without is identified by its line and the line's ordinal among identical ones,
all of which stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
from pyspark.sql import Column as SparkColumn
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from jobs.etl.ingest import DS, RAW, REASONS, SOURCE_FILE
from jobs.etl.reasons import joined
from schemas.dataset import ROW_ID, Dataset

# The driver holds so many hashes at most.
_MANY = 10_000
_SAME = "__same"
_FOUND = "rows array<bigint>, hashes array<bigint>"


@dataclass(frozen=True)
class Survey:
    """What is known of the raw rows before they are judged.

    Attributes:
        rows: number of raw rows by `ds`.
        repeated: hashes of (`ds`, key or line) that more than one row has; None: too many to list.
    """

    rows: Mapping[str, int]
    repeated: tuple[int, ...] | None


def surveyed(rows: DataFrame, dataset: Dataset, dates: Sequence[str]) -> Survey:
    """Counts the rows of each date and lists what stands in more than one row.

    Args:
        rows: with `ds`, and the key columns or `raw`.
        dates: those that `ds` may be.
    """
    # A date is a number here: as a text, it would cost more than all else that is moved.
    day = F.array_position(F.array(*map(F.lit, dates)), F.col(DS)).cast("int") - 1
    hashed = rows.select(day.alias(DS), _same(dataset).alias(_SAME))
    # Sorted by Spark, which spills; aggregated, each of millions of hashes would be a group.
    together = hashed.repartition(_SAME).sortWithinPartitions(_SAME)
    found = together.mapInArrow(partial(_repetitions, len(dates)), _FOUND).collect()
    table = np.array([row["rows"] for row in found], np.int64).reshape(-1, len(dates))
    counts = table.sum(axis=0).tolist()
    hashes = sorted(value for row in found for value in row["hashes"])
    return Survey(
        {ds: count for ds, count in zip(dates, counts, strict=True) if count},
        tuple(hashes) if len(hashes) <= _MANY else None,
    )


def _repetitions(days: int, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Of rows in order of their hashes the number by day, and the hashes that stand repeatedly.

    No more of these than tell that they are too many.
    """
    counts = np.zeros(days, np.int64)
    found: list[int] = []
    last, repeats = np.zeros(0, np.int64), False
    for batch in batches:
        counts += np.bincount(batch.column(0).to_numpy(), minlength=days)
        hashes = np.concatenate([last, batch.column(1).to_numpy()])
        same = hashes[1:] == hashes[:-1]
        # A hash is listed at its second row; the third is the same as the second.
        second = same & ~np.concatenate([[repeats], same[:-1]])
        found += hashes[1:][second][: _MANY + 1 - len(found)].tolist()
        last, repeats = hashes[-1:], bool(same[-1]) if len(same) else repeats
    numbers = pa.list_(pa.int64())
    columns = [pa.array([counts.tolist()], numbers), pa.array([found], numbers)]
    yield pa.RecordBatch.from_arrays(columns, ["rows", "hashes"])


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
