"""Quantiles: counts by bucket have the same bits in any order, and are right to half a bucket."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from jobs.base.quantiles import bounds, merged, quantiles
from jobs.etl.fit.counting import buckets_of
from jobs.etl.fit.states import states
from jobs.lake.state import NumericStats
from tests.builders.fitting import entries_of, history_of
from tests.etl.fit.test_entries import dataset

FRACTIONS = (0.0, 0.01, 0.25, 0.5, 0.9, 1.0)


def stats(
    spark: SparkSession, folder: Path, values: Sequence[float | None], tasks: int
) -> NumericStats:
    rows = pa.table(
        {
            "ds": [f"d{i % 3}" for i in range(len(values))],
            "word_id": ["a"] * len(values),
            "x": pa.array(values, pa.float64()),
        }
    )
    parts = [rows.take(list(range(start, len(values), tasks))) for start in range(tasks)]
    past = history_of(spark, folder, parts, dataset(), ["d0", "d1", "d2"])
    _, found = states(past, entries_of([]), dataset(), ["d2", "d5"], 0, 1)
    return found.numeric["x"]


def test_a_value_lies_in_its_bucket_and_buckets_are_in_the_values_order() -> None:
    values = sorted(
        sign * digit * 10.0**power
        for sign in (-1, 1)
        for digit in (1, 2.5, 9.99)
        for power in range(-38, 9)
    )
    values += [0.0, -0.0]
    buckets = buckets_of(np.array(values)).tolist()
    assert buckets[-2:] == [0, 0]
    assert buckets[:-2] == sorted(buckets[:-2])
    for x, bucket in zip(values, buckets, strict=True):
        low, high = bounds(bucket)
        assert low - 1e-12 * abs(low) <= x <= high + 1e-12 * abs(high)


def test_quantiles_are_right_to_half_a_bucket_and_the_same_in_any_order(
    spark: SparkSession, tmp_path: Path
) -> None:
    values: list[float | None] = [((i * 7919) % 5003) ** 2 / 1e4 - 300 for i in range(600)]
    values += [None] * 5
    one, other = stats(spark, tmp_path, values, 1), stats(spark, tmp_path, values[::-1], 5)
    assert one.buckets == other.buckets
    assert one.nulls == 5
    known = sorted(value for value in values if value is not None)
    assert sum(count for _, count in one.buckets) == one.count == len(known)
    for fraction, found in zip(FRACTIONS, one.quantiles(*FRACTIONS), strict=True):
        true = known[max(1, math.ceil(fraction * len(known))) - 1]
        assert found == pytest.approx(true, rel=0.016)


def test_a_field_without_values_has_no_quantile(spark: SparkSession, tmp_path: Path) -> None:
    empty = stats(spark, tmp_path, [None] * 4, 2)
    assert empty.buckets == ()
    assert math.isnan(empty.quantiles(0.5)[0])


@given(st.lists(st.lists(st.tuples(st.integers(-50, 50), st.integers(1, 9)))))
def test_counts_merge_in_any_chunks(parts: list[list[tuple[int, int]]]) -> None:
    whole = merged([tuple(pair for part in parts for pair in part)])
    assert merged([merged([tuple(part)]) for part in reversed(parts)]) == whole
    if whole:
        found = quantiles(whole, FRACTIONS, -math.inf, math.inf)
        assert list(found) == sorted(found)
