"""Fit: vocabularies from contributions.

They are one append-only id log: values get ids in the order in which they became frequent enough,
by date, then by descending count up to that date, ties by value.
"""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from jobs.etl.names import DS
from schemas.dataset import Dataset, struct_type

ID_LOG = struct_type(
    [
        ("field", "string"),
        ("value", "string"),
        ("id", "int"),
        ("from_ds", "string"),
        ("run", "string"),
    ]
)
ENTRY = ("field", "value", "id", "from_ds")


def new_entries(
    counts: DataFrame,
    entries: DataFrame,
    dataset: Dataset,
    dates: Sequence[str],
    num_dates: int = 0,
) -> DataFrame:
    """The id log's new entries when `dates` are fitted, as if one by one in order.

    Args:
        counts: contributions of all dates, those of `dates` included.
        entries: the id log so far.
        dates: the dates of this run, ascending.
        num_dates: of `counts`, where it is known.

    Returns:
        `field`, `value`, `id`, `from_ds`.
    """
    spark = counts.sparkSession
    fields = spark.createDataFrame(
        sorted({(f.log_name, f.min_count, f.max_size, f.first_value_id) for f in dataset.counted}),
        "field string, min_count long, max_size long, first_id int",
    )
    values = counts.where(F.col("value").isNotNull()).join(F.broadcast(fields), "field")
    # Of millions of values a few percent are frequent: the others need no sorting.
    if num_dates == 1:
        values = values.where(F.col("count") >= F.col("min_count"))
    else:
        total = values.groupBy("field", "value", "min_count").agg(F.sum("count").alias("total"))
        often = total.where(F.col("total") >= F.col("min_count")).select("field", "value")
        values = values.join(often, ["field", "value"], "left_semi")
    unknown = values.join(entries.select("field", "value"), ["field", "value"], "left_anti")
    if num_dates == 1:
        frequent = unknown.withColumns({"from_ds": F.lit(dates[0]), "seen": F.col("count")})
    else:
        frequent = _became_frequent(unknown, dates)
    known = entries.groupBy("field").agg(F.count(F.lit(1)).alias("known"))
    order = Window.partitionBy("field").orderBy("from_ds", F.desc("seen"), "value")
    placed = (
        frequent.join(F.broadcast(known), "field", "left")
        .withColumn("place", F.row_number().over(order) + F.coalesce("known", F.lit(0)))
        .where(F.col("place") <= F.col("max_size"))
    )
    identity = (F.col("first_id") + F.col("place") - 1).cast("int").alias("id")
    return placed.select("field", "value", identity, "from_ds")


def _became_frequent(values: DataFrame, dates: Sequence[str]) -> DataFrame:
    """Values that reached min_count, the date of this run as of which, and their count by then."""
    same = ["field", "value", "min_count", "max_size", "first_id"]
    running = Window.partitionBy(*same).orderBy(DS)
    reached = values.withColumn("running", F.sum("count").over(running))
    first = F.min(F.when(F.col("running") >= F.col("min_count"), F.col(DS)))
    days = F.array(*[F.lit(ds) for ds in dates])
    by_value = reached.groupBy(*same).agg(
        first.alias("reached"), F.collect_list(F.struct(DS, "running")).alias("history")
    )
    from_ds = F.array_min(F.filter(days, lambda day: day >= F.col("reached")))
    dated = by_value.where(F.col("reached").isNotNull()).withColumn("from_ds", from_ds)
    until = F.filter("history", lambda point: point[DS] <= F.col("from_ds"))
    seen = F.array_max(F.transform(until, lambda point: point["running"]))
    return dated.where(F.col("from_ds").isNotNull()).withColumn("seen", seen)
