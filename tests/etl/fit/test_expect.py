"""Expectations on a date as a whole: refused, or warned of, by name."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from jobs.base.errors import DateRefused
from jobs.etl.fit import history
from jobs.etl.fit.expect import Findings, added, measured, stability_index
from jobs.lake.ledger import read_ledger
from jobs.main import main
from schemas.dataset import DeclarationError
from schemas.expect import Drift, Nulls, Rows, Share
from tests.builders.fitting import history_of, history_of_rows
from tests.builders.lakes import example_rows, lake_of, run_etl
from tests.builders.visits import VISITS, Raw, rows_of

DAYS = ["2024-01-01", "2024-01-02"]

EXPECTING = replace(
    VISITS,
    expectations=(
        Rows(min=30, max=1000),
        Nulls("age_years", max=0.1),
        Share("from_a", "shop = 'a'", min=0.1, max=0.5),
        Drift("age_years", max=0.5),
        Drift("shop_id", max=0.5, severity="warn"),
    ),
)


@pytest.mark.slow
def test_broken_expectations_refuse_or_warn(
    tmp_path: Path, spark: SparkSession, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = Raw(tmp_path, declaration="tests.etl.fit.test_expect:EXPECTING").add(rows_of(DAYS[0], 60))
    raw.write()
    run_etl(raw, spark, DAYS[:1])
    (row,) = read_ledger(lake_of(raw), stage="etl")
    assert row["metrics"] == {
        "rows": 60.0,
        "nulls:age_years": 0.0,
        "share:from_a": sum(",a," in line for line in raw.lines) / 60,
    }
    sound = example_rows(raw)

    # Ages far beyond those of the day before, all in one shop.
    raw.add([f"{DAYS[1]},{i},a,1.0,{90 + i % 20},1" for i in range(50)]).write()
    arguments = ["etl", "--config", str(raw.config), "--date", DAYS[1], "--quiet"]
    assert main(arguments) == 3
    error = capsys.readouterr().err
    assert f"{DAYS[1]} is not as expected" in error
    assert "share:from_a is 1, expected 0.1 to 0.5" in error
    assert "--set etl.severities.share:from_a=warn" in error
    refused = read_ledger(lake_of(raw), status="refused")[-1]
    assert (refused["ds"], refused["metrics"]["share:from_a"]) == (DAYS[1], 1.0)

    assert main([*arguments, "--set", "etl.severities.share:from_a=warn"]) == 3
    assert "psi:age_years is" in capsys.readouterr().err
    assert example_rows(raw).equals(sound)

    eased = ["--set", "etl.severities={share:from_a: ignore, psi:age_years: warn}"]
    assert main([*arguments, *eased]) == 0
    done = read_ledger(lake_of(raw), status="done")[-1]
    assert set(done["metrics"]) == {"rows", "nulls:age_years", "psi:age_years", "psi:shop_id"}
    assert "psi:age_years is" in done["message"]
    assert "psi:shop_id is" in done["message"]
    assert len(example_rows(raw)) == 110


def test_a_date_without_valid_rows_is_not_as_expected() -> None:
    with pytest.raises(DateRefused, match="rows is 0") as refused:
        Findings(EXPECTING, {}).judge_rows({}, DAYS[:1])
    assert "nulls:age_years is nan" in str(refused.value)


def test_a_warning_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    few = replace(VISITS, expectations=(Rows(min=2, severity="warn"),))
    findings = Findings(few, {})
    with caplog.at_level(logging.WARNING, "millstream.etl"):
        findings.judge_rows({DAYS[0]: {"rows": 1}}, DAYS[:1])
    assert f"{DAYS[0]}: rows is 1, expected 2 to inf" in caplog.text
    assert findings.metrics == {DAYS[0]: {"rows": 1.0}}


def test_measures_of_rows_add_up_however_they_are_cut() -> None:
    expectations = (
        Rows(),
        Nulls("age_years"),
        Share("from_a", "shop = 'a'"),
        Share("odd", "CAST(shop AS INT) > 0"),
    )
    valid = pa.table(
        {
            "ds": [DAYS[i % 2] for i in range(10)],
            "age_years": pa.array([None if i % 3 == 0 else 1.0 for i in range(10)], pa.float32()),
            "shop": [None if i == 4 else "ab"[i % 5 // 3] for i in range(10)],
        }
    )
    whole = measured(valid, expectations)
    assert whole == {
        DAYS[0]: {"rows": 5, "nulls:age_years": 2, "share:from_a": 3, "share:odd": 0},
        DAYS[1]: {"rows": 5, "nulls:age_years": 2, "share:from_a": 3, "share:odd": 0},
    }
    for cut in range(11):
        parts = [measured(part, expectations) for part in (valid.slice(cut), valid.slice(0, cut))]
        assert added(parts) == whole


@pytest.mark.parametrize("driver_rows", [10_000_000, 0])
def test_drift_is_the_same_for_dates_together_and_one_by_one(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver_rows: int
) -> None:
    monkeypatch.setattr(history, "_DRIVER_ROWS", driver_rows)
    days = [f"2024-01-0{day}" for day in range(1, 5)]
    cells = [(day, i) for day in range(4) for i in range(40)]
    shops = ["abcdef"[i * (day + 1) % 7 % 6] for day, i in cells]
    nothing = pa.nulls(len(cells), pa.float32())
    rows = pa.table(
        {
            "ds": [days[day] for day, _ in cells],
            "amount_log": [float(i % (5 + 3 * day)) for day, i in cells],
            "shop_id": shops,
            "age_group": shops,
            "age_years": nothing,
            "shop_size": nothing,
        }
    )
    past = history_of(spark, tmp_path, [rows], VISITS, days)
    declared = replace(VISITS, expectations=(Drift("amount_log"), Drift("shop_id")))
    together = Findings(declared, {})
    together.judge_drift(past, days[1:])
    apart: dict[str, Any] = {}
    for ds in reversed(days):
        one = Findings(declared, {})
        one.judge_drift(past, [ds])
        apart |= one.metrics
    assert apart.pop(days[0]) == {}
    assert together.metrics == apart
    assert all(values["psi:amount_log"] > 0.01 for values in apart.values())


def test_drift_counts_nulls_apart(spark: SparkSession, tmp_path: Path) -> None:
    rows = [
        {"field": "age_years", "ds": ds, **values}
        for ds, nulls in zip(DAYS, (10, 90), strict=True)
        for values in (
            {"count": 100 - nulls, "nulls": nulls},
            {"value": "5", "count": 100 - nulls},
        )
    ]
    findings = Findings(replace(VISITS, expectations=(Drift("age_years"),)), {})
    findings.judge_drift(history_of_rows(spark, tmp_path, rows), DAYS)
    p, q = 10.5 / 101, 90.5 / 101
    expected = 2 * (q - p) * math.log(q / p)
    assert findings.metrics[DAYS[1]]["psi:age_years"] == pytest.approx(expected)


COUNTS = st.dictionaries(st.integers(-50, 50), st.integers(1, 1000), min_size=1)


@given(COUNTS, COUNTS, st.booleans())
def test_stability_index(before: dict[int, int], now: dict[int, int], ordered: bool) -> None:
    assert stability_index(before, before, ordered) == pytest.approx(0)
    assert stability_index(before, now, ordered) >= 0
    shuffled = dict(sorted(now.items(), key=lambda item: item[1]))
    assert stability_index(before, now, ordered) == stability_index(before, shuffled, ordered)


def test_stability_index_by_hand() -> None:
    p, q = (50.5 / 101, 50.5 / 101), (80.5 / 101, 20.5 / 101)
    expected = sum((b - a) * math.log(b / a) for a, b in zip(p, q, strict=True))
    assert stability_index({1: 50, 2: 50}, {1: 80, 2: 20}, False) == pytest.approx(expected)
    assert stability_index({1: 50, 2: 50}, {1: 80, 2: 20}, True) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("expectations", "problem"),
    [
        ((Rows(), Rows(max=5)), "expectations named twice: rows"),
        ((Nulls("nobody"),), "'nulls:nobody' names no field"),
        ((Drift("label"),), "only numeric fields, and categorical ones with"),
    ],
)
def test_contradictions_of_expectations(expectations: Sequence[Any], problem: str) -> None:
    with pytest.raises(DeclarationError, match=problem):
        replace(VISITS, expectations=tuple(expectations))
    with pytest.raises(ValueError, match="min is 5, max is 1"):
        Rows(min=5, max=1)


def test_expectations_do_not_change_the_declaration() -> None:
    assert EXPECTING.digest == VISITS.digest
