"""Vocabularies: the order of ids, ties, thresholds, and dates that come late."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

import pytest
from pyspark.sql import DataFrame, SparkSession

from jobs.base.errors import DataRefused
from jobs.etl.contributions import CONTRIBUTIONS
from jobs.etl.fit import ID_LOG, new_entries
from jobs.etl.states import states
from schemas.dataset import Column, Dataset, Source
from schemas.field import Categorical, Label, Numeric
from tests.builders.fitting import contributions

Count = tuple[str, str, int]
Entry = tuple[str, int, str]


def dataset(min_count: int = 2, max_size: int = 100) -> Dataset:
    return Dataset(
        name="words",
        sources=(
            Source(
                "words",
                columns=(
                    Column("id", "int"),
                    Column("word", "string"),
                    Column("x", "double"),
                    Column("y", "int"),
                ),
            ),
        ),
        rows="words",
        ds="id",
        key=("id",),
        fields=(
            Label("label", "y"),
            Numeric("x"),
            Categorical("word_id", "word", min_count=min_count, max_size=max_size, oov_buckets=1),
        ),
    )


def counts_of(spark: SparkSession, counts: Iterable[Count]) -> DataFrame:
    rows = [
        ("word_id", word, count, None, None, None, None, None, ds) for ds, word, count in counts
    ]
    return spark.createDataFrame(rows, CONTRIBUTIONS)


def log_of(spark: SparkSession, entries: Iterable[Entry]) -> DataFrame:
    rows = [("word_id", value, id_, from_ds, "r") for value, id_, from_ds in entries]
    return spark.createDataFrame(rows, ID_LOG)


def added(
    spark: SparkSession,
    counts: Iterable[Count],
    entries: Iterable[Entry],
    dates: list[str],
    declared: Dataset | None = None,
) -> list[Entry]:
    new = new_entries(
        counts_of(spark, counts), log_of(spark, entries), declared or dataset(), dates
    )
    return sorted(((r["value"], r["id"], r["from_ds"]) for r in new.collect()), key=lambda e: e[1])


def test_ids_follow_date_then_count_then_value(spark: SparkSession) -> None:
    counts = [
        ("d1", "rare", 1),
        ("d1", "tie_b", 3),
        ("d1", "tie_a", 3),
        ("d1", "often", 9),
        ("d2", "rare", 1),
        ("d2", "late", 50),
    ]
    assert added(spark, counts, [], ["d1", "d2"]) == [
        ("often", 3, "d1"),
        ("tie_a", 4, "d1"),
        ("tie_b", 5, "d1"),
        ("late", 6, "d2"),
        ("rare", 7, "d2"),
    ]


def test_a_range_gives_what_its_dates_give_in_order(spark: SparkSession) -> None:
    counts = [(f"d{i % 4}", f"w{i * 7 % 11}", 1 + i % 3) for i in range(40)]
    dates = [f"d{i}" for i in range(4)]
    one_by_one: list[Entry] = []
    for ds in dates:
        one_by_one += added(spark, counts, one_by_one, [ds])
    assert added(spark, counts, [], dates) == one_by_one


def test_an_older_date_only_appends_and_an_id_stays(spark: SparkSession) -> None:
    first = added(spark, [("d1", "a", 1), ("d3", "b", 5)], [], ["d1", "d3"])
    assert first == [("b", 3, "d3")]
    late = [("d1", "a", 1), ("d2", "a", 1), ("d2", "b", 9), ("d3", "b", 1)]
    assert added(spark, late, first, ["d2"]) == [("a", 4, "d2")]


def test_max_size_stops_new_entries(spark: SparkSession) -> None:
    counts = [("d1", "a", 5), ("d1", "b", 4), ("d1", "c", 3)]
    small = dataset(max_size=2)
    assert added(spark, counts, [], ["d1"], small) == [("a", 3, "d1"), ("b", 4, "d1")]
    assert added(spark, counts, [("a", 3, "d1"), ("b", 4, "d1")], ["d1"], small) == []


def test_null_is_no_value_of_the_vocabulary(spark: SparkSession) -> None:
    rows = spark.createDataFrame(
        [("d1", None, 1.0)] * 5 + [("d1", "a", None)] * 3, "ds string, word_id string, x float"
    )
    counts = contributions(rows, dataset(), ["d1"])
    new = new_entries(counts, log_of(spark, []), dataset(), ["d1"]).collect()
    assert [row["value"] for row in new] == ["a"]
    state = states(counts, log_of(spark, []), dataset(), ["d1"], 0, 1)["d1"]
    assert (state.numeric["x"].count, state.numeric["x"].nulls) == (5, 3)


def test_sums_have_the_same_bits_in_any_order(spark: SparkSession) -> None:
    values = [10.0 ** (i % 19 - 9) / 3 * (-1) ** i for i in range(500)]
    found = set()
    for partitions, step in ((1, 1), (2, -1), (7, 1)):
        rows = spark.createDataFrame(
            [("d1", "a", value) for value in values[::step]], "ds string, word_id string, x double"
        ).repartition(partitions)
        counts = contributions(rows, dataset(), ["d1"])
        stats = states(counts, log_of(spark, []), dataset(), ["d1"], 0, 1)["d1"].numeric["x"]
        found.add((stats.mean.hex(), stats.std.hex()))
    assert len(found) == 1
    ((mean, _),) = found
    assert float.fromhex(mean) == pytest.approx(sum(map(Fraction, values)) / 500, rel=1e-12)


def test_values_too_large_for_exact_sums_are_refused(spark: SparkSession) -> None:
    rows = spark.createDataFrame([("d1", "a", 1e11)], "ds string, word_id string, x float")
    with pytest.raises(DataRefused, match=r"field 'x' has values from 1e\+11 to 1e\+11 on d1"):
        states(contributions(rows, dataset(), ["d1"]), log_of(spark, []), dataset(), ["d1"], 0, 1)
