"""Rows to score: judged and encoded in one pass, into files of a run that no commit ever names.

Python workers read such files several times faster than Spark hands its rows over to them, the
judging is done once however often a task of the scoring is tried again, and nothing of a date is
held in memory.
"""

from __future__ import annotations

from collections.abc import Collection

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, StringType, StructField, StructType

from jobs.etl.encode import encode
from jobs.etl.kept import Kept
from jobs.etl.names import DS, RAW, REASONS, SOURCE_FILE
from jobs.lake.files import NewFile
from jobs.lake.lake import Lake
from schemas.dataset import Dataset

_REFUSED = "refused"
_JUDGED = StructType(
    [
        StructField(REASONS, ArrayType(StringType())),
        StructField(RAW, StringType()),
        StructField(SOURCE_FILE, StringType()),
        StructField(DS, StringType()),
    ]
)
# A row group is what a task of the scoring takes; some tens of thousands of rows.
_ROW_GROUP_BYTES = 8 << 20


def stage_encoded(
    rows: DataFrame | Kept,
    dataset: Dataset,
    entries: DataFrame,
    as_of: str,
    shuffled: Collection[str],
    lake: Lake,
    run: str,
) -> list[NewFile]:
    """Writes all rows, the valid ones and the refused ones apart.

    Args:
        rows: judged ones, with the text of refused ones alone.
        entries, as_of, shuffled: see `encode`.

    Returns:
        The files, with the stored columns, `ds`, `reasons`, `raw` (of refused rows alone) and
        `source_file`.
    """
    keep = (REASONS, RAW, SOURCE_FILE)
    encoded = encode(rows, dataset, entries, as_of=as_of, keep=keep, shuffled=shuffled)
    written = encoded.withColumn(_REFUSED, F.size(REASONS) > 0)
    table = lake.table("encoded")
    writer = written.write.mode("overwrite").partitionBy(_REFUSED)
    writer.option("parquet.block.size", _ROW_GROUP_BYTES).parquet(f"{table.url}/run={run}")
    return table.staged(run, [_REFUSED])


def valid(files: Collection[NewFile]) -> list[NewFile]:
    """Those that hold rows to score."""
    return [file for file in files if file.partition[_REFUSED] == "false"]


def judged(spark: SparkSession, lake: Lake, files: Collection[NewFile]) -> DataFrame:
    """`reasons`, `raw`, `source_file` and `ds` of all rows, the valid ones too."""
    paths = [f"{lake.table('encoded').url}/{file.path}" for file in files]
    return spark.read.schema(_JUDGED).parquet(*paths)


def refused_counts(judged: DataFrame) -> dict[str, dict[tuple[str, ...], int]]:
    """Refused rows by date and reasons."""
    refused: dict[str, dict[tuple[str, ...], int]] = {}
    counts = judged.where(F.size(REASONS) > 0).groupBy(DS, REASONS).count()
    for row in counts.collect():
        refused.setdefault(row[DS], {})[tuple(row[REASONS])] = row["count"]
    return refused
