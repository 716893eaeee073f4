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

from jobs.base.xxhash import xxhash64_of_pair
from jobs.etl.exchange import PARCELS, Ints, arrived, exchanged, gathered, opened, parcels
from jobs.etl.ingest import DS, RAW, REASONS, SOURCE_FILE
from jobs.etl.names import ORDINAL
from jobs.etl.reasons import joined
from schemas.dataset import ROW_ID, Dataset

# The driver holds so many hashes at most; so many a query takes as literals.
MANY, _MANY_LITERALS = 100_000, 10_000
_SAME = "__same"
_PARTS = 256
# To the hash, a number of four bytes is a text of four.
_ONE = (1).to_bytes(4, "little").decode()
_HASHED = pa.schema([(DS, pa.int32()), (_SAME, pa.int64())])


@dataclass(frozen=True)
class Survey:
    """What is known of the raw rows before they are judged.

    Attributes:
        rows: number of raw rows by `ds`.
        repeated: hashes of (`ds`, key or line) that more than one row has, ascending [n]; None:
            too many to list.
    """

    rows: Mapping[str, int]
    repeated: Ints | None


def surveyed(rows: DataFrame, dataset: Dataset, dates: Sequence[str]) -> Survey:
    """Counts the rows of each date and lists what stands in more than one row.

    Args:
        rows: with `ds`, and the key columns or `raw`.
        dates: those that `ds` may be.
    """
    day = F.array_position(F.array(*map(F.lit, dates)), F.col(DS)).cast("int") - 1
    hashed = rows.select(day.alias(DS), _same(dataset).alias(_SAME))
    tasks = min(_PARTS, 2 * rows.sparkSession.sparkContext.defaultParallelism)
    parts = exchanged(hashed.mapInArrow(_sent, PARCELS), tasks)
    found = parts.mapInArrow(
        partial(_repetitions, len(dates)), "rows array<bigint>, hashes binary"
    ).collect()
    counts = np.array([row["rows"] for row in found], np.int64).reshape(-1, len(dates)).sum(axis=0)
    hashes = np.frombuffer(b"".join(row["hashes"] for row in found), np.int64)
    return Survey(
        {ds: count for ds, count in zip(dates, counts.tolist(), strict=True) if count},
        np.sort(hashes) if len(hashes) <= MANY else None,
    )


def _sent(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The hashes as parcels, by their highest bits."""
    for table in gathered(pa.Table.from_batches([batch]) for batch in batches):
        if table.num_rows:
            numbers = (table[_SAME].to_numpy() >> 56) + _PARTS // 2
            yield from parcels(table.cast(_HASHED), numbers.astype(np.int32))


def _repetitions(days: int, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The number of rows by day, and the hashes that stand repeatedly: no more of these than tell
    that they are too many."""
    counts, found, size = np.zeros(days, np.int64), [], 0
    for _, contents in arrived(batches):
        table = pa.Table.from_batches(opened(contents, _HASHED))
        counts += np.bincount(table[DS].to_numpy(), minlength=days)
        hashes = np.sort(table[_SAME].to_numpy())
        again = np.unique(hashes[1:][hashes[1:] == hashes[:-1]])[: MANY + 1 - size]
        found.append(again.tobytes())
        size += len(again)
    numbers = pa.array([counts.tolist()], pa.list_(pa.int64()))
    hashes_found = pa.array([b"".join(found)], pa.binary())
    yield pa.RecordBatch.from_arrays([numbers, hashes_found], ["rows", "hashes"])


def identified(rows: DataFrame, dataset: Dataset, survey: Survey) -> DataFrame:
    """Adds the row id, and to repetitions of a key the reason `duplicate_key`.

    Only rows that the survey found repeated are compared with each other.

    Args:
        rows: with `ds`, the key columns, `raw`, `source_file`, and `reasons` as one text; perhaps
            with the ordinals of lines.

    Returns:
        The rows with `row_id`, and with `reasons` as an array, empty where a row is valid.
    """
    if ORDINAL not in rows.columns:
        rows = _with_ordinal(rows, dataset, survey)
    rows = _with_row_id(rows, dataset)
    none = F.array().cast("array<string>")
    reasons = F.when(F.col(REASONS) == "", none).otherwise(F.split(REASONS, ","))
    return rows.withColumn(REASONS, reasons).drop(ORDINAL)


def _with_ordinal(rows: DataFrame, dataset: Dataset, survey: Survey) -> DataFrame:
    ordered = _ordered_by_key if dataset.key else ordered_by_line
    if survey.repeated is None or len(survey.repeated) > _MANY_LITERALS:
        return ordered(rows, dataset)
    if not len(survey.repeated):
        return rows.withColumn(ORDINAL, F.lit(1))
    # Of the columns that are read first, so that other lines need not be parsed for it.
    literals = ", ".join(f"{value}L" for value in survey.repeated)
    repeated = F.expr(f"{_same_sql(dataset)} IN ({literals})")
    several = ordered(rows.where(repeated), dataset)
    return rows.where(~repeated).withColumn(ORDINAL, F.lit(1)).unionByName(several)


def id_of_line(dataset: Dataset, ordinal: SparkColumn) -> SparkColumn:
    """The row id of a valid row without a key; one to one with the pair, as a long's hash is."""
    return F.xxhash64(_same(dataset), ordinal)


def ids_of_first_lines(hashes: Ints) -> Ints:
    """As `id_of_line` gives them for lines with these hashes and the ordinal 1 [n], ascending."""
    return np.sort(xxhash64_of_pair(hashes, _ONE))


def _same_sql(dataset: Dataset) -> str:
    return f"xxhash64({', '.join([DS, *[f'`{name}`' for name in dataset.key or (RAW,)]])})"


def _same(dataset: Dataset) -> SparkColumn:
    """The same for rows with one key, or for identical lines, of a date."""
    return F.expr(_same_sql(dataset))


def _ordered_by_key(rows: DataFrame, dataset: Dataset) -> DataFrame:
    """Refuses the valid rows of a key after the first."""
    valid = F.col(REASONS) == ""
    same = Window.partitionBy(_same(dataset), DS, *dataset.key, valid).orderBy(RAW, SOURCE_FILE)
    rows = rows.withColumn(ORDINAL, F.row_number().over(same))
    repeated = F.when(valid & (F.col(ORDINAL) > 1), F.lit("duplicate_key"))
    return rows.withColumn(REASONS, joined([repeated], F.col(REASONS)))


def ordered_by_line(rows: DataFrame, dataset: Dataset) -> DataFrame:
    """Adds the ordinal, among lines of one hash, so that lines whose hashes collide differ too."""
    same = Window.partitionBy(_same(dataset)).orderBy(RAW, SOURCE_FILE)
    return rows.withColumn(ORDINAL, F.row_number().over(same))


def _with_row_id(rows: DataFrame, dataset: Dataset) -> DataFrame:
    """64-bit hash of (ds, key); refused rows have that of their line, as their key may be null."""
    key = _same(dataset)
    if not dataset.key:
        key = id_of_line(dataset, F.col(ORDINAL))
    line = F.xxhash64(RAW, SOURCE_FILE)
    return rows.withColumn(ROW_ID, F.when(F.col(REASONS) == "", key).otherwise(line))
