"""States: sums of numbers have the same bits in any order of rows, tasks and parts."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from jobs.base.errors import DataRefused
from jobs.etl.fit import history
from jobs.etl.fit.entries import ENTRIES, new_entries
from jobs.etl.fit.history import CountHistory
from jobs.etl.fit.states import _reaches, states
from jobs.lake.state import State
from tests.builders.fitting import entries_of, history_of
from tests.etl.fit.test_entries import dataset


def rows_of(values: list[float | None], ds: str = "d1") -> pa.Table:
    """Rows with numbers; words follow from them."""
    words = [None if x is None else f"w{int(abs(x)) % 5}" for x in values]
    return pa.table(
        {"ds": [ds] * len(values), "word_id": words, "x": pa.array(values, pa.float64())}
    )


def state_of(past: CountHistory, ds: str = "d1") -> State:
    entries = new_entries(past, entries_of([]), dataset(), past.dates)
    (found,) = states(past, entries, dataset(), [ds], 0, 1)
    return found


def test_nulls_are_counted_apart(spark: SparkSession, tmp_path: Path) -> None:
    past = history_of(spark, tmp_path, [rows_of([1.0] * 5 + [None] * 3)], dataset(), ["d1"])
    stats = state_of(past).numeric["x"]
    assert (stats.count, stats.nulls) == (5, 3)


@pytest.mark.parametrize("driver_rows", [10_000_000, 0])
def test_sums_have_the_same_bits_in_any_order(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver_rows: int
) -> None:
    monkeypatch.setattr(history, "_DRIVER_ROWS", driver_rows)
    values: list[float | None] = [10.0 ** (i % 19 - 9) / 3 * (-1) ** i for i in range(500)]
    found = []
    for tasks, step, of_values in ((1, 1, 1), (2, -1, 3), (7, 1, 2)):
        parts = [rows_of(values[::step][start::tasks]) for start in range(tasks)]
        past = history_of(spark, tmp_path, parts, dataset(), ["d1"], of_values)
        found.append(state_of(past))
    assert len({state.digest for state in found}) == 1
    stats = found[0].numeric["x"]
    exact = sum(Fraction(x) for x in values if x is not None) / 500
    assert stats.mean == pytest.approx(exact, rel=1e-12)
    assert len({(s.numeric["x"].mean.hex(), s.numeric["x"].std.hex()) for s in found}) == 1


@pytest.mark.parametrize("values", [[-0.0, 0.0], [0.0, -0.0], [-0.0], [0.0]])
def test_least_and_greatest_values_know_one_zero(
    spark: SparkSession, tmp_path: Path, values: list[float | None]
) -> None:
    """Which of two equal zeros stands there would follow from the order of rows."""
    for tasks in ([rows_of(values)], [rows_of([x]) for x in values]):
        stats = state_of(history_of(spark, tmp_path, tasks, dataset(), ["d1"])).numeric["x"]
        assert (stats.min.hex(), stats.max.hex()) == ("0x0.0p+0", "0x0.0p+0")


def test_values_too_large_for_exact_sums_are_refused(spark: SparkSession, tmp_path: Path) -> None:
    past = history_of(spark, tmp_path, [rows_of([1e11])], dataset(), ["d1"])
    with pytest.raises(DataRefused, match=r"field 'x' has values from 1e\+11 to 1e\+11 on d1"):
        state_of(past)


def test_values_too_small_for_a_deviation_are_refused(spark: SparkSession, tmp_path: Path) -> None:
    days = ["d1", "d2"]
    tables = [rows_of([1e-9, -3e-9], "d1"), rows_of([2e-6, 4e-6], "d2")]
    past = history_of(spark, tmp_path, [pa.concat_tables(tables)], dataset(), days)
    with pytest.raises(DataRefused, match=r"field 'x' has values from -3e-09 to 1e-09 up to d1"):
        state_of(past)
    assert state_of(past, "d2").numeric["x"].std > 0


@pytest.mark.parametrize("values", [[0.0, 0.0], [1e-9, 1e-9]])
def test_one_value_needs_no_deviation(
    spark: SparkSession, tmp_path: Path, values: list[float | None]
) -> None:
    past = history_of(spark, tmp_path, [rows_of(values)], dataset(), ["d1"])
    assert state_of(past).numeric["x"].std == 0


def test_a_state_is_of_the_dates_up_to_its_own(spark: SparkSession, tmp_path: Path) -> None:
    days = ["d1", "d2", "d3"]
    tables = [rows_of([float(n), n + 0.5], ds) for n, ds in enumerate(days)]
    past = history_of(spark, tmp_path, [pa.concat_tables(tables)], dataset(), days)
    entries = new_entries(past, entries_of([]), dataset(), days)
    together = {s.ds: s for s in states(past, entries, dataset(), ["d1", "d3", "d9"], 0, 1)}
    assert [together[ds].numeric["x"].count for ds in together] == [2, 6, 6]
    # Entries of later dates are none of a state's own.
    assert together["d1"].vocabulary["word_id"].entries == 1
    assert together["d3"].vocabulary["word_id"].entries == 3


@pytest.mark.slow
def test_entries_may_have_more_texts_than_an_array_holds() -> None:
    texts = pa.array(["x" * (1 << 20)] * 100)
    part = pa.table([["word_id"] * 100, texts, list(range(100)), ["d1"] * 100], schema=ENTRIES)
    (reach,) = _reaches(pa.concat_tables([part] * 22))["word_id"].values()
    assert (reach.entries, reach.highest) == (2_200, 99)
