"""Quarantine: every refused row, with its reasons, its text and its file."""

from __future__ import annotations

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, StringType, StructField, StructType

from jobs.etl.ingest import DS, RAW, REASONS, SOURCE_FILE, UNDATED
from jobs.etl.lines import readable
from jobs.lake.files import NewFile
from jobs.lake.tables import Table

STAGE = "stage"
# Not `run`: that is a level of the folders, which Spark would take for the column.
RUN_ID = "run_id"
_COLUMNS = (REASONS, RAW, SOURCE_FILE, RUN_ID)
QUARANTINE = StructType(
    [
        StructField(REASONS, ArrayType(StringType())),
        StructField(RAW, StringType()),
        StructField(SOURCE_FILE, StringType()),
        StructField(RUN_ID, StringType()),
        StructField(STAGE, StringType()),
        StructField(DS, StringType()),
    ]
)


def stage_quarantine(rows: DataFrame, table: Table, stage: str, run: str) -> list[NewFile]:
    """Writes the rows that have reasons into the run's folder; nothing is visible yet.

    The text of a line that is no UTF-8 is written with backslash escapes (see `readable`).

    Undated rows of files that this run did not read are written again with them, since a commit
    replaces the partition `undated` whole.

    Args:
        rows: with `ds`, `reasons`, `raw` and `source_file`.
    """
    refused = rows.where(F.size(REASONS) > 0).select(
        REASONS,
        readable(F.col(RAW)).alias(RAW),
        SOURCE_FILE,
        F.lit(run).alias(RUN_ID),
        F.lit(stage).alias(STAGE),
        DS,
    )
    if table.exists() and UNDATED in {f.partition[DS] for f in table.files()}:
        kept = table.spark(rows.sparkSession, QUARANTINE, where={STAGE: [stage], DS: [UNDATED]})
        read = F.broadcast(rows.select(SOURCE_FILE).distinct())
        others = kept.join(read, SOURCE_FILE, "left_anti")
        refused = refused.unionByName(others.select(*refused.columns))
    by_date = refused.select(*_COLUMNS, STAGE, DS).repartition(STAGE, DS)
    return table.stage(by_date.sortWithinPartitions(STAGE, DS, RAW), run, [STAGE, DS])


def quarantined_rows(
    table: Table, spark: SparkSession, stage: str, run: str, version: int
) -> dict[str, int]:
    """Rows that a run put there, by date, counted from what was written."""
    rows = table.spark(spark, QUARANTINE, version, {STAGE: [stage]}).where(F.col(RUN_ID) == run)
    return {row[DS]: row["count"] for row in rows.groupBy(DS).count().collect()}
