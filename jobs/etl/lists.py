"""Lists of values to lists of ids: all elements of all list fields in one join and one grouping."""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql import Column as SparkColumn
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.etl.ingest import DS
from schemas.dataset import ROW_ID, Dataset
from schemas.field import FIRST_OOV_ID, NULL_ID, CategoricalList


def oov_id(value: SparkColumn, oov_buckets: int | SparkColumn) -> SparkColumn:
    """The id of a value that has none: a bucket by its hash."""
    buckets = F.lit(oov_buckets) if isinstance(oov_buckets, int) else oov_buckets
    return (FIRST_OOV_ID + F.pmod(F.xxhash64(value), buckets)).cast("int")


def with_list_ids(
    rows: DataFrame,
    dataset: Dataset,
    fields: Sequence[CategoricalList],
    entries: DataFrame,
    until: SparkColumn,
) -> DataFrame:
    """The rows with the ids of the elements, in their order, in place of the values.

    Args:
        fields: whose elements.
        rows: valid ones, in which a key stands once a `ds`.
        entries: `field`, `value`, `id`, `from_ds`.
        until: entries up to this date count.
    """
    if not fields:
        return rows
    # Row ids are hashes: two rows may share one, with other keys.
    row = [DS, ROW_ID, *dataset.key]
    elements = rows.select(*row, F.inline(F.concat(*map(_elements, fields))))
    known = entries.where(F.col("field").isin([f.log_name for f in fields]))
    found = elements.join(known.withColumnRenamed("field", "log"), ["log", "value"], "left")
    identity = (
        F.when(F.col("value").isNull(), F.lit(NULL_ID))
        .when(F.col("from_ds") <= until, F.col("id"))
        .otherwise(oov_id(F.col("value"), F.col("buckets")))
    )
    placed = F.struct("place", "field", identity.alias("id"))
    grouped = found.groupBy(*row).agg(F.sort_array(F.collect_list(placed)).alias("__ids"))
    ids = {f.name: F.coalesce(_ids_of(f), F.array().cast("array<int>")) for f in fields}
    return rows.join(grouped, row, "left").withColumns(ids).drop("__ids")


def _elements(f: CategoricalList) -> SparkColumn:
    return F.transform(
        f.name,
        lambda value, place: F.struct(
            F.lit(f.name).alias("field"),
            F.lit(f.log_name).alias("log"),
            place.alias("place"),
            value.alias("value"),
            F.lit(f.oov_buckets).alias("buckets"),
        ),
    )


def _ids_of(f: CategoricalList) -> SparkColumn:
    own = F.filter("__ids", lambda element: element["field"] == f.name)
    return F.transform(own, lambda element: element["id"])
