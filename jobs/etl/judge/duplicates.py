"""Duplicates: of valid rows with one key the first by (raw text, source file) stays.

A row without a key is identified by its line and the line's ordinal among identical ones, all of
which stay. Only rows whose hash stands twice are looked at, by Spark, whatever their number; what
is found is kept beside the files of judged rows, as patches that the scan applies.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import fsspec
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from jobs.etl.judge.files import FILE, NEW_ID, ROW_NUMBER, JudgedFile
from jobs.etl.judge.judging import JudgedRows
from jobs.etl.judge.tasks import REPEATED
from jobs.rows.base.names import DS, DUPLICATE_KEY, RAW, REASONS, SOURCE_FILE, SPLIT
from schemas.dataset import ROW_ID, Dataset

# A key may have any name that does not begin so.
_ORDINAL, _FILE, _ROW = "__ordinal", "__file", "__row"
_REFUSED = "duplicates"


def without_duplicates(rows: JudgedRows, dataset: Dataset) -> JudgedRows:
    """The rows after repetitions of a key are refused, or repeated lines have ids of their own."""
    if not rows.repeated:
        return rows
    later = _later(rows, dataset).persist()
    try:
        _write_patches(rows, later, dataset)
        rows = replace(rows, valid=replace(rows.valid, patches=True))
        return _with_refused(rows, later) if dataset.key else rows
    finally:
        later.unpersist()


def _later(rows: JudgedRows, dataset: Dataset) -> DataFrame:
    """The rows that others with the same key, or the same line, come before, with their ordinal.

    Lines whose hashes collide are told apart by their values; where these are the same, so is what
    is stored, whichever comes first.
    """
    valid, spark = rows.valid, rows.valid.spark
    found = spark.read.parquet(*[f"{valid.url}/{file.path}" for file in valid.files])
    hashes = spark.read.parquet(f"{valid.url}/{REPEATED}")
    # The first number in the name of a file is its own.
    number = F.regexp_extract("_metadata.file_name", "[0-9]+", 0).cast("int")
    place = F.col("_metadata.row_index").cast("bigint")
    same = found.select("*", number.alias(_FILE), place.alias(_ROW))
    same = same.join(hashes, ROW_ID, "left_semi")
    if dataset.key:
        key = [F.col(f"`{name}`") for name in (DS, *dataset.key)]
        window = Window.partitionBy(*key).orderBy(RAW, SOURCE_FILE, _FILE, _ROW)
    else:
        values = F.xxhash64(*[f"`{f.name}`" for f in dataset.fields])
        window = Window.partitionBy(ROW_ID).orderBy(values, _FILE, _ROW)
    return same.withColumn(_ORDINAL, F.row_number().over(window)).where(F.col(_ORDINAL) > 1)


def _write_patches(rows: JudgedRows, later: DataFrame, dataset: Dataset) -> None:
    new_id = F.lit(None).cast("bigint") if dataset.key else F.xxhash64(ROW_ID, _ORDINAL)
    patches = later.select(
        F.col(_FILE).alias(FILE),
        F.col(_ROW).alias(ROW_NUMBER),
        new_id.alias(NEW_ID),
    )
    by_file = patches.repartition(FILE).sortWithinPartitions(FILE)
    by_file.write.mode("overwrite").partitionBy(FILE).parquet(f"{rows.valid.url}/patches")


def _with_refused(rows: JudgedRows, later: DataFrame) -> JudgedRows:
    """The rows with repetitions among the refused ones, and counted so."""
    reasons = F.array(F.lit(DUPLICATE_KEY)).alias(REASONS)
    splits = [SPLIT] if SPLIT in later.columns else []
    counts: dict[str, dict[str, int]] = defaultdict(dict)
    for row in later.groupBy(DS, *splits).count().collect():
        counts[row[DS]][row[SPLIT] if splits else ""] = row["count"]
    folder = f"{rows.valid.url}/{_REFUSED}"
    later.select(reasons, RAW, SOURCE_FILE, DS).write.mode("overwrite").parquet(folder)
    return replace(
        rows,
        counts={ds: one.without_duplicates(counts.get(ds, {})) for ds, one in rows.counts.items()},
        refused=(*rows.refused, *_refused_files(rows)),
    )


def _refused_files(rows: JudgedRows) -> list[JudgedFile]:
    fs, root = fsspec.core.url_to_fs(rows.valid.url)
    found = []
    for path in sorted(fs.glob(f"{root}/{_REFUSED}/*.parquet")):
        with fs.open(path, "rb") as file:
            footer = pq.read_metadata(file)
        groups = tuple(footer.row_group(n).num_rows for n in range(footer.num_row_groups))
        found.append(JudgedFile(-1, f"{_REFUSED}/{path.rsplit('/', 1)[1]}", groups))
    return [file for file in found if file.rows]
