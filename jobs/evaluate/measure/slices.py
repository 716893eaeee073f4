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
    keys = [_kept(rows, names_of(one, slices), _values(one), most_values) for one in slices]
    return rows.withColumn(SLICES, F.array(*keys).cast("array<string>"))


def names_of(one: SliceSettings, slices: Sequence[SliceSettings]) -> tuple[str, ...]:
    """The names of a slice's columns; with their buckets, `age[30|50]`, where other slices are by
    the same columns, so that no two of their groups are the same."""
    if sum(other.by == one.by for other in slices) == 1:
        return one.by
    edges = {name: "|".join(map(_edge, found)) for name, found in one.buckets.items()}
    return tuple(f"{name}[{edges[name]}]" if name in edges else name for name in one.by)


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
        number < edges[0], F.lit(f"<{_edge(edges[0])}")
    )
    for low, high in pairwise(edges):
        text = text.when(number < high, F.lit(f"{_edge(low)}..{_edge(high)}"))
    return text.otherwise(F.lit(f">={_edge(edges[-1])}"))


def _edge(edge: float) -> str:
    """As short as it may be and still be another text than any other edge."""
    short = f"{edge:g}"
    return short if float(short) == edge else repr(edge)


def _kept(
    rows: DataFrame, names: Sequence[str], values: Sequence[Column], most_values: int
) -> Column:
    by = F.array(*map(F.lit, names))
    key = F.to_json(F.array(by, F.array(*values)))
    sizes = rows.groupBy(key.alias("key")).count().orderBy(F.desc("count"), "key")
    kept = [row["key"] for row in sizes.limit(most_values + 1).collect()]
    if len(kept) <= most_values:
        return key
    others = F.to_json(F.array(by, F.lit(None)))
    return F.when(key.isin(kept[:most_values]), key).otherwise(others)
