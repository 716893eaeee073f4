"""Slices: groups of rows that are measured apart, by their values of stored columns."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from jobs.base.errors import ConfigError
from jobs.settings.evaluate import SliceSettings
from schemas.dataset import Dataset
from schemas.field import Carried
from schemas.source import spark_name

SLICES = "__slices"


def with_slices(rows: DataFrame, slices: Sequence[SliceSettings], most_values: int) -> DataFrame:
    """Adds `__slices`, the keys of a row's groups: see `Group.of_key`.

    Of a declared slice the `most_values` largest groups are kept, ties by key; the other rows are
    together in one.

    Args:
        rows: the stored columns and `ds`.
        slices: see `check_slices`.

    """
    keys = [_kept(rows, one, _values(one), most_values) for one in slices]
    return rows.withColumn(SLICES, F.array(*keys).cast("array<string>"))


def check_slices(dataset: Dataset, slices: Sequence[SliceSettings]) -> None:
    """
    Raises:
        ConfigError: a slice is by a column that is not stored readably.
    """
    known = {"ds", *dataset.key, *(f.name for f in dataset.of_kind(Carried))}
    numeric = {f.name for f in dataset.numeric}
    for one in slices:
        for name in one.by:
            if name not in known and not (name in one.buckets and name in numeric):
                raise ConfigError(
                    f"evaluate.slices: {name!r} of slice {one.name!r}",
                    f"one of {', '.join(sorted(known))}, or a numeric field with its buckets "
                    f"({', '.join(sorted(numeric)) or 'there is none'})",
                    "let the declaration carry the raw column (Carried) to slice by it",
                )


def _values(one: SliceSettings) -> list[Column]:
    """The texts of a slice's columns, null where there is no value."""
    return [
        _bucket(F.col(spark_name(name)), one.buckets[name])
        if name in one.buckets
        else F.col(spark_name(name)).cast("string")
        for name in one.by
    ]


def _bucket(value: Column, edges: Sequence[float]) -> Column:
    """`<1`, `1..5`, `>=5`: a bucket holds its lower edge."""
    number = value.cast("double")
    text = F.when(number.isNull() | F.isnan(number), F.lit(None)).when(
        number < edges[0], F.lit(f"<{edges[0]:g}")
    )
    for low, high in pairwise(edges):
        text = text.when(number < high, F.lit(f"{low:g}..{high:g}"))
    return text.otherwise(F.lit(f">={edges[-1]:g}"))


def _kept(
    rows: DataFrame, one: SliceSettings, values: Sequence[Column], most_values: int
) -> Column:
    by = F.array(*map(F.lit, one.by))
    key = F.to_json(F.array(by, F.array(*values)))
    sizes = rows.groupBy(key.alias("key")).count().orderBy(F.desc("count"), "key")
    kept = [row["key"] for row in sizes.limit(most_values + 1).collect()]
    if len(kept) <= most_values:
        return key
    others = F.to_json(F.array(by, F.lit(None)))
    return F.when(key.isin(kept[:most_values]), key).otherwise(others)
