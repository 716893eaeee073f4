"""Fit: what train rows teach, kept by date so that it merges.

A date's contribution is counts by value for categorical fields and exact sums for numeric ones.
Vocabularies are one append-only id log: values get ids in the order in which they became frequent
enough, by date, then by descending count up to that date, ties by value. All sums are of whole
numbers, so the bits are the same in any order of rows.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence

from pyspark.sql import Column as SparkColumn
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, DoubleType, LongType, StringType, StructField, StructType

from jobs.etl.counting import LIMBS, NUMBERS, VALUES, Groups, count_values, sum_numbers
from jobs.etl.kept import Kept, in_arrow
from jobs.etl.names import DS
from schemas.dataset import Dataset, struct_type

UNIT = 2**56
# The limbs of larger values' squares could overflow in 2^34 rows.
LARGEST = 1e9

CONTRIBUTIONS = StructType(
    [
        StructField("field", StringType()),
        StructField("value", StringType()),
        StructField("count", LongType()),
        StructField("nulls", LongType()),
        StructField("total", ArrayType(LongType())),
        StructField("total_squares", ArrayType(LongType())),
        StructField("low", DoubleType()),
        StructField("high", DoubleType()),
        StructField(DS, StringType()),
    ]
)
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


def contributions(train: DataFrame | Kept, dataset: Dataset, dates: Sequence[str]) -> DataFrame:
    """What the train rows of each date add: see `CONTRIBUTIONS` for the columns.

    A categorical row counts one value (null is one of them), a list each of its elements. A
    numeric field has one row a date with its sums, and one for each bucket of its values, whose
    number is the `value`.

    Args:
        dates: those of the rows.
    """
    counted, measured = dataset.counted, [f.name for f in dataset.measured]
    found = []
    if counted:
        logs = tuple(dict.fromkeys(f.log_name for f in counted))
        columns = tuple((f.name, f.log_name) for f in counted)
        found.append(_value_counts(train, Groups(tuple(dates), logs, columns)))
    if measured:
        columns = tuple((name, name) for name in measured)
        found.append(_number_counts(train, Groups(tuple(dates), tuple(measured), columns)))
    if not found:
        # A data set of images alone has nothing to fit.
        spark = train.spark if isinstance(train, Kept) else train.sparkSession
        return spark.createDataFrame([], CONTRIBUTIONS)
    return functools.reduce(DataFrame.unionByName, found)


def _names(groups: Groups) -> dict[str, SparkColumn]:
    """The date and the name of a `number`."""
    names, dates = (F.array(*map(F.lit, texts)) for texts in (groups.names, groups.dates))
    size = len(groups.names)
    return {DS: dates[F.expr(f"int(number div {size})")], "field": names[F.col("number") % size]}


def _value_counts(train: DataFrame | Kept, groups: Groups) -> DataFrame:
    parts = in_arrow(train, groups.read, functools.partial(count_values, groups), VALUES)
    # A task has each pair once: to add up before the shuffle would find nothing to add.
    parts = parts.repartition("number", "value")
    counts = parts.groupBy("number", "value").agg(F.sum("count").alias("count"))
    columns = {**_names(groups), "value": F.col("value"), "count": F.col("count")}
    return counts.select(*_cast(columns))


def _cast(columns: Mapping[str, SparkColumn]) -> Iterator[SparkColumn]:
    """The columns of `CONTRIBUTIONS`, null where not given."""
    for column in CONTRIBUTIONS.fields:
        value = columns.get(column.name, F.lit(None))
        yield value.cast(column.dataType).alias(column.name)


def _number_counts(train: DataFrame | Kept, groups: Groups) -> DataFrame:
    """Of each task's buckets and sums one row a field with its sums, and one for each bucket."""
    parts = in_arrow(train, groups.read, functools.partial(sum_numbers, groups), NUMBERS)
    sums = {name: F.sum(name).alias(name) for name in ("count", *LIMBS)}
    ends = (F.min("low").alias("low"), F.max("high").alias("high"))
    by_bucket = parts.groupBy("number", "bucket").agg(*sums.values(), *ends)
    known, counts = F.col("bucket").isNotNull(), F.struct("bucket", "count")
    by_number = by_bucket.groupBy("number").agg(
        F.coalesce(F.sum(F.when(known, F.col("count"))), F.lit(0)).alias("count"),
        F.coalesce(F.sum(F.when(~known, F.col("count"))), F.lit(0)).alias("nulls"),
        *ends,
        F.collect_list(F.when(known, counts)).alias("buckets"),
        *[F.sum(name).alias(name) for name in LIMBS],
    )
    return _long(by_number, groups)


def _long(by_number: DataFrame, groups: Groups) -> DataFrame:
    """A row with a field's sums, and one for each of its buckets."""
    group, half = _names(groups), len(LIMBS) // 2
    of_field = {name: F.col(name) for name in ("count", "nulls", "low", "high")} | {
        **group,
        "total": F.array(*LIMBS[:half]),
        "total_squares": F.array(*LIMBS[half:]),
    }

    def of_bucket(bucket: SparkColumn) -> SparkColumn:
        values = {"value": bucket["bucket"], "count": bucket["count"]}
        return F.struct(*_cast({**group, **values}))

    rows = F.concat(F.array(F.struct(*_cast(of_field))), F.transform("buckets", of_bucket))
    return by_number.select(F.inline(rows))


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
