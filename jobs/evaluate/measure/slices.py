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

OTHER, NULL = "(other)", "(null)"


def with_slices(
    rows: DataFrame, dataset: Dataset, slices: Sequence[SliceSettings], most_values: int
) -> DataFrame:
    """Adds `slices`, the names of a row's slices: `origin=JFK`, `origin=JFK,month=1`.

    Of a declared slice the `most_values` largest groups are kept, ties by name; the other rows are
    together in `(other)`.

    Args:
        rows: the stored columns and `ds`.

    Raises:
        ConfigError: a slice is by a column that is not stored readably.
    """
    names = [_kept(rows, _label(dataset, one), one, most_values) for one in slices]
    return rows.withColumn("slices", F.array(*names).cast("array<string>"))


def _label(dataset: Dataset, one: SliceSettings) -> Column:
    known = {"ds", *dataset.key, *(f.name for f in dataset.of_kind(Carried))}
    numeric = {f.name for f in dataset.numeric}
    parts = []
    for name in one.by:
        if name in one.buckets and name in numeric | known:
            parts.append(F.concat(F.lit(f"{name}="), _bucket(F.col(name), one.buckets[name])))
        elif name in known:
            text = F.coalesce(F.col(name).cast("string"), F.lit(NULL))
            parts.append(F.concat(F.lit(f"{name}="), text))
        else:
            raise ConfigError(
                f"evaluate.slices: {name!r} of slice {one.name!r}",
                f"one of {', '.join(sorted(known))}, or a numeric field with its buckets "
                f"({', '.join(sorted(numeric)) or 'there is none'})",
                "let the declaration carry the raw column (Carried) to slice by it",
            )
    return F.concat_ws(",", *parts)


def _bucket(value: Column, edges: Sequence[float]) -> Column:
    """`<1`, `1..5`, `>=5`: a bucket holds its lower edge."""
    number = value.cast("double")
    text = F.when(number.isNull() | F.isnan(number), F.lit(NULL)).when(
        number < edges[0], F.lit(f"<{edges[0]:g}")
    )
    for low, high in pairwise(edges):
        text = text.when(number < high, F.lit(f"{low:g}..{high:g}"))
    return text.otherwise(F.lit(f">={edges[-1]:g}"))


def _kept(rows: DataFrame, label: Column, one: SliceSettings, most_values: int) -> Column:
    sizes = rows.groupBy(label.alias("label")).count().orderBy(F.desc("count"), "label")
    kept = [row["label"] for row in sizes.limit(most_values + 1).collect()]
    if len(kept) <= most_values:
        return label
    return F.when(label.isin(kept[:most_values]), label).otherwise(F.lit(f"{one.name}={OTHER}"))
