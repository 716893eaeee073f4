"""What the report tells of the ETL: rows read and refused, reasons, drift."""

from __future__ import annotations

import math

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from jobs.etl.write.quarantine import QUARANTINE
from jobs.etl.write.settle import standing_version
from jobs.evaluate.measure.selection import Selection
from jobs.evaluate.report.report import RowsRead
from jobs.lake.lake import Lake
from jobs.lake.ledger import read_ledger
from jobs.rows.base.names import DS, REASONS

PSI = "psi:"


def read_by_etl(spark: SparkSession, lake: Lake, selection: Selection) -> RowsRead:
    """What the newest finished ETL of each of the selection's dates wrote in the ledger."""
    newest = {
        row["ds"]: row
        for row in read_ledger(lake, stage="etl", status="done")
        if selection.first_ds <= row["ds"] <= selection.last_ds
    }
    days = dict(sorted(newest.items()))
    fields = sorted({n for row in days.values() for n in row["metrics"] if n.startswith(PSI)})
    drift = {
        name.removeprefix(PSI): [row["metrics"].get(name, math.nan) for row in days.values()]
        for name in fields
    }
    return RowsRead(
        days={ds: row["counts"] for ds, row in days.items()},
        reasons=_reasons(spark, lake, selection),
        drift=drift,
    )


def _reasons(spark: SparkSession, lake: Lake, selection: Selection) -> dict[str, int]:
    version = standing_version(lake, "etl")
    if version < 0:
        return {}
    refused = lake.table("quarantine").spark(spark, QUARANTINE, version, {"stage": ["etl"]})
    refused = refused.where(F.col(DS).between(selection.first_ds, selection.last_ds))
    counts = refused.select(F.explode(REASONS).alias("reason")).groupBy("reason").count()
    return {row["reason"]: row["count"] for row in counts.collect()}
