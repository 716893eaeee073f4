"""Vocabularies: the order of ids, ties, thresholds, and dates that come late."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from jobs.etl.fit import history, portions
from jobs.etl.fit.entries import _became_frequent, new_entries
from jobs.etl.fit.portions import by_value
from schemas.dataset import Column, Dataset, Source
from schemas.field import Categorical, Label, Numeric
from tests.builders.fitting import entries_of, history_of, history_of_rows

Count = tuple[str, str, int]
Entry = tuple[str, int, str]
# Of counts, the log so far, dates and perhaps another declaration.
Added = Callable[..., list[Entry]]


@pytest.fixture(params=["driver", "portions", "tasks"])
def anywhere(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where contributions are read: by the driver, at once or in portions, or, beyond its bound, by
    Spark's tasks."""
    if request.param == "tasks":
        monkeypatch.setattr(history, "_DRIVER_ROWS", 0)
        monkeypatch.setattr(history, "_ROWS_PER_PART", 3)
    if request.param == "portions":
        monkeypatch.setattr(portions, "MOST_BYTES", 40)
    return str(request.param)


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
        ds="DATE'2024-01-01'",
        key=("id",),
        fields=(
            Label("label", "y"),
            Numeric("x"),
            Categorical("word_id", "word", min_count=min_count, max_size=max_size, oov_buckets=1),
        ),
    )


@pytest.fixture
def added(spark: SparkSession, tmp_path: Path, anywhere: str) -> Added:
    """New entries of `word_id`, in order of their ids."""

    def of(
        counts: Iterable[Count],
        entries: Iterable[Entry],
        dates: list[str],
        declared: Dataset | None = None,
    ) -> list[Entry]:
        rows = [
            {"field": "word_id", "value": word, "count": count, "ds": ds}
            for ds, word, count in counts
        ]
        log = entries_of([("word_id", *entry) for entry in entries])
        past = history_of_rows(spark, tmp_path, rows).up_to(max(dates))
        new = new_entries(past, log, declared or dataset(), dates).to_pylist()
        return sorted(
            ((row["value"], row["id"], row["from_ds"]) for row in new), key=lambda entry: entry[1]
        )

    return of


def test_ids_follow_date_then_count_then_value(added: Added) -> None:
    counts = [
        ("d1", "rare", 1),
        ("d1", "tie_b", 3),
        ("d1", "tie_a", 3),
        ("d1", "often", 9),
        ("d2", "rare", 1),
        ("d2", "late", 50),
    ]
    assert added(counts, [], ["d1", "d2"]) == [
        ("often", 3, "d1"),
        ("tie_a", 4, "d1"),
        ("tie_b", 5, "d1"),
        ("late", 6, "d2"),
        ("rare", 7, "d2"),
    ]


def test_a_range_gives_what_its_dates_give_in_order(added: Added) -> None:
    counts = [(f"d{i % 4}", f"w{i * 7 % 11}", 1 + i % 3) for i in range(40)]
    dates = [f"d{i}" for i in range(4)]
    one_by_one: list[Entry] = []
    for ds in dates:
        one_by_one += added(counts, one_by_one, [ds])
    assert added(counts, [], dates) == one_by_one


def test_an_entry_is_of_the_date_whose_rows_made_it_frequent(added: Added) -> None:
    """Not of the first date of a pass, which may have no train row of its own."""
    counts = [("d2", "a", 5), ("d4", "b", 2)]
    dates = ["d1", "d2", "d3", "d4"]
    one_by_one: list[Entry] = []
    for ds in dates:
        one_by_one += added(counts, one_by_one, [ds])
    assert added(counts, [], dates) == one_by_one == [("a", 3, "d2"), ("b", 4, "d4")]


@pytest.mark.parametrize("seed", range(3))
def test_counts_in_any_order_and_passes_of_any_size_give_the_same(added: Added, seed: int) -> None:
    chance = random.Random(seed)
    dates = [f"d{i}" for i in range(6)]
    # Some dates have no row; many values tie.
    counts = [
        (ds, word, chance.randint(1, 2))
        for ds in chance.sample(dates, 4)
        for word in chance.sample("abcdefgh", 5)
    ]
    cut = chance.randint(1, 5)
    parts: list[Entry] = []
    for chunk in (dates[:cut], dates[cut:]):
        chance.shuffle(counts)
        parts += added(counts, parts, chunk)
    assert added(counts, [], dates) == parts


def test_an_older_date_only_appends_and_an_id_stays(added: Added) -> None:
    first = added([("d1", "a", 1), ("d3", "b", 5)], [], ["d1", "d3"])
    assert first == [("b", 3, "d3")]
    late = [("d1", "a", 1), ("d2", "a", 1), ("d2", "b", 9), ("d3", "b", 1)]
    assert added(late, first, ["d2"]) == [("a", 4, "d2")]


def test_max_size_stops_new_entries(added: Added) -> None:
    counts = [("d1", "a", 5), ("d1", "b", 4), ("d1", "c", 3)]
    small = dataset(max_size=2)
    assert added(counts, [], ["d1"], small) == [("a", 3, "d1"), ("b", 4, "d1")]
    assert added(counts, [("a", 3, "d1"), ("b", 4, "d1")], ["d1"], small) == []


def test_null_is_no_value_of_the_vocabulary(spark: SparkSession, tmp_path: Path) -> None:
    rows = pa.table(
        {
            "ds": ["d1"] * 8,
            "word_id": [None] * 5 + ["a"] * 3,
            "x": pa.array([1.0] * 5 + [None] * 3, pa.float32()),
        }
    )
    past = history_of(spark, tmp_path, [rows], dataset(), ["d1"])
    new = new_entries(past, entries_of([]), dataset(), ["d1"])
    assert new["value"].to_pylist() == ["a"]


@pytest.mark.slow
def test_values_may_have_more_texts_than_an_array_holds() -> None:
    def one(number: int) -> pa.Table:
        texts = [f"{number:04}{n:04}" + "x" * (1 << 20) for n in range(100)]
        columns = [["word_id"] * 100, texts, [1] * 100, ["2024-01-01"] * 100]
        return pa.table(columns, names=["field", "value", "count", "ds"])

    counts = pa.concat_tables([one(number) for number in range(22)])
    became = partial(_became_frequent, {"word_id": 1}, ("2024-01-01",))
    assert by_value(counts, became).num_rows == 2_200
