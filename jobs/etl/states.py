"""States: contributions and the id log, merged up to a date."""

from __future__ import annotations

import decimal
import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.base.errors import DataRefused
from jobs.base.quantiles import Buckets, merged
from jobs.etl.counting import LARGEST, UNIT, total_of
from jobs.etl.fit import ENTRY, ID_LOG
from jobs.etl.ingest import DS
from jobs.lake.lake import Lake
from jobs.lake.manifest import UINT64
from jobs.lake.state import NumericStats, State, Vocabulary, empty_stats
from schemas.dataset import Dataset
from schemas.field import WithIds


@dataclass(frozen=True)
class _Sums:
    """A numeric field's train rows of some dates; `total` and `squares` in units of 2^-56."""

    count: int = 0
    nulls: int = 0
    total: int = 0
    squares: int = 0
    low: float = math.inf
    high: float = -math.inf

    def __add__(self, other: _Sums) -> _Sums:
        return _Sums(
            self.count + other.count,
            self.nulls + other.nulls,
            self.total + other.total,
            self.squares + other.squares,
            min(self.low, other.low),
            max(self.high, other.high),
        )


@dataclass(frozen=True)
class _Reach:
    """A categorical field's entries of some dates."""

    entries: int = 0
    content: int = 0
    highest: int = -1

    def __add__(self, other: _Reach) -> _Reach:
        return _Reach(
            self.entries + other.entries,
            (self.content + other.content) % UINT64,
            max(self.highest, other.highest),
        )


def states(
    counts: DataFrame,
    entries: DataFrame,
    dataset: Dataset,
    dates: Sequence[str],
    id_log_version: int,
    generation: int,
) -> dict[str, State]:
    """The state as of each of the dates.

    Args:
        counts: contributions of all dates.
        entries: the whole id log.

    Raises:
        DataRefused: a numeric field has values too large for exact sums.
    """
    sums = {name: _running(parts) for name, parts in _sums_by_field(counts, dataset).items()}
    buckets = _buckets_by_field(counts, dataset, dates)
    reaches = {name: _running(parts) for name, parts in _reaches(entries).items()}
    return {
        ds: State(
            ds=ds,
            id_log_version=id_log_version,
            declaration=dataset.digest,
            generation=generation,
            numeric={
                f.name: _stats(
                    _as_of(ds, sums.get(f.name), _Sums()), _as_of(ds, buckets.get(f.name), ())
                )
                for f in dataset.measured
            },
            vocabulary={
                f.log_name: _vocabulary(f, _as_of(ds, reaches.get(f.log_name), _Reach()))
                for f in dataset.with_ids
            },
        )
        for ds in dates
    }


def _running(parts: dict[str, Any]) -> tuple[list[str], list[Any]]:
    """Dates in order, and what each and those before it add up to."""
    days = sorted(parts)
    return days, list(accumulate(parts[ds] for ds in days))


def _as_of(ds: str, running: tuple[list[str], list[Any]] | None, nothing: Any) -> Any:
    if running is None:
        return nothing
    days, sums = running
    place = bisect_right(days, ds)
    return sums[place - 1] if place else nothing


def _sums_by_field(counts: DataFrame, dataset: Dataset) -> dict[str, dict[str, _Sums]]:
    names = [f.name for f in dataset.measured]
    by_field: dict[str, dict[str, _Sums]] = {}
    # One row a (date, numeric field): small, whatever the number of rows.
    for row in counts.where(F.col("field").isin(names) & F.col("nulls").isNotNull()).collect():
        sums = _Sums(nulls=row["nulls"])
        if row["count"]:
            low, high = row["low"], row["high"]
            if max(-low, high) > LARGEST:
                raise DataRefused(
                    f"field {row['field']!r} has values from {low:g} to {high:g} on {row[DS]}",
                    f"values within {LARGEST:g}, so that sums are exact",
                    "declare a transform: Log1p, Clip or Scale",
                )
            total, squares = total_of(row["total"]), total_of(row["total_squares"])
            sums = _Sums(row["count"], row["nulls"], total, squares, low, high)
        by_field.setdefault(row["field"], {})[row[DS]] = sums
    return by_field


def _buckets_by_field(
    counts: DataFrame, dataset: Dataset, dates: Sequence[str]
) -> dict[str, tuple[list[str], list[Buckets]]]:
    """Counts by bucket as of each of the dates.

    Other dates are added to the next of these by Spark, so that what is collected grows with the
    dates of this run and the buckets, not with the table.
    """
    names = [f.name for f in dataset.measured]
    days = F.array(*[F.lit(ds) for ds in sorted(dates)])
    upto = F.array_min(F.filter(days, lambda day: day >= F.col(DS)))
    counted = counts.where(F.col("field").isin(names) & F.col("value").isNotNull())
    by_bucket = counted.groupBy(
        "field", upto.alias("upto"), F.col("value").cast("int").alias("bucket")
    ).agg(F.sum("count").alias("rows"))
    lists = by_bucket.groupBy("field", "upto").agg(F.collect_list(F.struct("bucket", "rows")))
    parts: dict[str, dict[str, Buckets]] = {}
    for field, ds, pairs in lists.where(F.col("upto").isNotNull()).collect():
        parts.setdefault(field, {})[ds] = merged([tuple(pairs)])
    found = {}
    for field, by_ds in parts.items():
        days_with = sorted(by_ds)
        running = accumulate((by_ds[ds] for ds in days_with), lambda *two: merged(two))
        found[field] = (days_with, list(running))
    return found


def _stats(sums: _Sums, buckets: Buckets) -> NumericStats:
    """Mean and population deviation, rounded to float64 once, at the end."""
    if not sums.count:
        return empty_stats(sums.nulls)
    with decimal.localcontext(decimal.Context(prec=80)):
        mean = decimal.Decimal(sums.total) / UNIT / sums.count
        squares = decimal.Decimal(sums.squares) / UNIT / sums.count
        std = max(squares - mean * mean, decimal.Decimal(0)).sqrt()
        return NumericStats(
            count=sums.count,
            nulls=sums.nulls,
            mean=float(mean),
            std=float(std),
            min=sums.low,
            max=sums.high,
            buckets=buckets,
        )


def _reaches(entries: DataFrame) -> dict[str, dict[str, _Reach]]:
    parts = entries.groupBy("field", "from_ds").agg(
        F.count(F.lit(1)).alias("entries"),
        F.sum(F.xxhash64("value", "id")).alias("content"),
        F.max("id").alias("highest"),
    )
    found: dict[str, dict[str, _Reach]] = {}
    for row in parts.collect():
        reach = _Reach(row["entries"], row["content"] % UINT64, row["highest"])
        found.setdefault(row["field"], {})[row["from_ds"]] = reach
    return found


def _vocabulary(f: WithIds, reach: _Reach) -> Vocabulary:
    return Vocabulary(
        entries=reach.entries,
        rows=1 + max(f.first_value_id - 1, reach.highest),
        content=reach.content,
    )


def state_entries(spark: SparkSession, lake: Lake, state: State) -> DataFrame:
    """The id log's entries that a state knows: `field`, `value`, `id`, `from_ds`.

    Raises:
        DataRefused: the log no longer holds them.
    """
    log = lake.table("id_log").spark(spark, ID_LOG, state.id_log_version)
    # Read once, for the join of each field.
    entries = log.where(F.col("from_ds") <= state.ds).select(*ENTRY).persist()
    reaches = _reaches(entries)
    for name, vocabulary in state.vocabulary.items():
        found = sum(reach.content for reach in reaches.get(name, {}).values()) % UINT64
        if found != vocabulary.content:
            raise DataRefused(
                f"the id log of {lake.url} has other entries for field {name!r}",
                f"those of state {state.digest}",
                "restore the table id_log, or refit",
            )
    return entries
