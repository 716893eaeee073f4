"""Fit: what train rows teach, kept by date so that it merges.

A date's contribution is counts by value for categorical fields and exact sums for numeric ones.
Vocabularies are one append-only id log: values get ids in the order in which they became frequent
enough, by date, then by descending count up to that date, ties by value. All sums are of whole
numbers, so the bits are the same in any order of rows.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pyspark.sql import Column as SparkColumn
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, DoubleType, LongType, StringType, StructField, StructType

from jobs.etl.ingest import DS
from jobs.quantiles import BUCKETS_A_ROOT
from schemas.dataset import Dataset, struct_type
from schemas.field import Categorical, CategoricalList, NumericList

# Sums are kept as whole numbers: a term is cut at 2^32, 1, 2^-28 and 2^-56 into four limbs, which
# are summed apart. Decimals would do as well, but Spark makes each from the double's text.
_LIMB_BITS = (88, 56, 28, 0)
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
_FIRST = "__first"


def contributions(train_rows: DataFrame, dataset: Dataset, dates: Sequence[str]) -> DataFrame:
    """What the train rows of each date add: see `CONTRIBUTIONS` for the columns.

    A categorical row counts one value (null is one of them), a list each of its elements. A
    numeric field has one row a date with its sums, and one for each bucket of its values, whose
    number is the `value`.

    Args:
        dates: those of the rows.
    """
    measured = [(train_rows, [f.name for f in dataset.numeric])]
    for f in dataset.of_kind(NumericList):
        measured.append((train_rows.select(DS, F.explode(f.name).alias(f.name)), [f.name]))
    logs = list(dict.fromkeys(f.log_name for f in dataset.counted))
    found = [_value_counts(train_rows, dataset, _Groups(dates, logs))] if logs else []
    for rows, names in measured:
        found += [_number_counts(rows, _Groups(dates, names))] if names else []
    # A data set of images alone has nothing to fit.
    nothing = train_rows.sparkSession.createDataFrame([], CONTRIBUTIONS)
    return functools.reduce(DataFrame.unionByName, found or [nothing])


@dataclass(frozen=True)
class _Groups:
    """Numbers for pairs of a date and a name: grouping by texts takes twice the time."""

    dates: Sequence[str]
    names: Sequence[str]

    def numbered(self, rows: DataFrame) -> DataFrame:
        """Adds the number of the row's date and the first name."""
        if len(self.dates) == 1:
            return rows.withColumn(_FIRST, F.lit(0))
        place = F.array_position(F.array(*map(F.lit, self.dates)), F.col(DS)).cast("int") - 1
        return rows.withColumn(_FIRST, place * len(self.names))

    def of(self, name: str) -> SparkColumn:
        return (F.col(_FIRST) + self.names.index(name)).alias("number")

    def columns(self) -> dict[str, SparkColumn]:
        """The date and the name of a `number`."""
        names, dates = (F.array(*map(F.lit, texts)) for texts in (self.names, self.dates))
        size = len(self.names)
        return {
            DS: dates[F.expr(f"int(number div {size})")],
            "field": names[F.col("number") % size],
        }


def _value_counts(rows: DataFrame, dataset: Dataset, groups: _Groups) -> DataFrame:
    def pair(log: str, value: SparkColumn) -> SparkColumn:
        return F.struct(groups.of(log), value.alias("value"))

    single = [
        pair(f.log_name, F.col(f.name)) for f in dataset.counted if isinstance(f, Categorical)
    ]
    lists = [
        F.transform(f.name, functools.partial(pair, f.log_name))
        for f in dataset.counted
        if isinstance(f, CategoricalList)
    ]
    arrays = ([F.array(*single)] if single else []) + lists
    # Spark generates the rows of a plain array without making it.
    pairs = F.concat(*arrays) if lists else arrays[0]
    values = groups.numbered(rows).select(F.inline(pairs))
    counts = values.groupBy("number", "value").count()
    return counts.select(
        *_cast({**groups.columns(), "value": F.col("value"), "count": F.col("count")})
    )


def _cast(columns: Mapping[str, SparkColumn]) -> Iterator[SparkColumn]:
    """The columns of `CONTRIBUTIONS`, null where not given."""
    for column in CONTRIBUTIONS.fields:
        value = columns.get(column.name, F.lit(None))
        yield value.cast(column.dataType).alias(column.name)


def _number_counts(rows: DataFrame, groups: _Groups) -> DataFrame:
    """Counts by bucket and, of the buckets' sums, one row a field with its sums.

    A row a number and one short list of aggregates are generated code that stays small; aggregates
    of all columns side by side take several times as long.
    """
    pairs = [
        F.struct(groups.of(name), F.col(name).cast("double").alias("x")) for name in groups.names
    ]
    x = F.col("x")
    limbs = {f"l{i}": limb for i, limb in enumerate([*_limbs(x), *_limbs(x * x)])}
    by_bucket = (
        groups.numbered(rows)
        .select(F.inline(F.array(*pairs)))
        .groupBy("number", bucket_of(x).alias("bucket"))
        .agg(
            F.count(F.lit(1)).alias("count"),
            F.min(x).alias("low"),
            F.max(x).alias("high"),
            *[F.sum(limb).alias(name) for name, limb in limbs.items()],
        )
    )
    known, counts = F.col("bucket").isNotNull(), F.struct("bucket", "count")
    by_number = by_bucket.groupBy("number").agg(
        F.coalesce(F.sum(F.when(known, F.col("count"))), F.lit(0)).alias("count"),
        F.coalesce(F.sum(F.when(~known, F.col("count"))), F.lit(0)).alias("nulls"),
        F.min("low").alias("low"),
        F.max("high").alias("high"),
        F.collect_list(F.when(known, counts)).alias("buckets"),
        *[F.sum(name).alias(name) for name in limbs],
    )
    return _long(by_number, groups, list(limbs))


def _long(by_number: DataFrame, groups: _Groups, limbs: Sequence[str]) -> DataFrame:
    """A row with a field's sums, and one for each of its buckets."""
    group, half = groups.columns(), len(limbs) // 2
    of_field = {name: F.col(name) for name in ("count", "nulls", "low", "high")} | {
        **group,
        "total": F.array(*limbs[:half]),
        "total_squares": F.array(*limbs[half:]),
    }

    def of_bucket(bucket: SparkColumn) -> SparkColumn:
        values = {"value": bucket["bucket"], "count": bucket["count"]}
        return F.struct(*_cast({**group, **values}))

    rows = F.concat(F.array(F.struct(*_cast(of_field))), F.transform("buckets", of_bucket))
    return by_number.select(F.inline(rows))


def bucket_of(x: SparkColumn) -> SparkColumn:
    """The bucket (int) of a finite double, see `jobs.quantiles`; null of null."""
    root = F.sqrt(F.sqrt(F.sqrt(F.abs(x))))
    bucket = F.floor(root * float(BUCKETS_A_ROOT)).cast("int")
    return F.when(x < 0, -1 - bucket).otherwise(bucket)


def _limbs(term: SparkColumn) -> list[SparkColumn]:
    """The limbs of a term cut at 2^-56, whose sums are exact in any order."""

    def whole(x: SparkColumn) -> SparkColumn:
        # Towards zero: what floor() leaves of a small negative number has lost its last bits.
        return x.cast("bigint")

    high = whole(term * 2.0**-32)
    rest = term - high * 2.0**32
    middle = whole(rest)
    low = (rest - middle) * 2.0**28
    lower = whole(low)
    lowest = whole((low - lower) * 2.0**28)
    return [high, middle, lower, lowest]


def units(limbs: Sequence[int]) -> int:
    """A sum in units of 2^-56."""
    return sum(limb << bits for limb, bits in zip(limbs, _LIMB_BITS, strict=True))


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
