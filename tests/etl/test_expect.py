"""Expectations on a date as a whole, and limits on reasons: refused, or warned of, by name."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from jobs.base.errors import ConfigError, DateRefused
from jobs.etl.contributions import CONTRIBUTIONS
from jobs.etl.expect import Findings, stability_index
from jobs.etl.limits import check_limits, possible_reasons
from jobs.etl.tally import Tally, refuse_bad
from jobs.lake.ledger import read_ledger
from jobs.main import main
from schemas.dataset import DeclarationError
from schemas.expect import Drift, Nulls, Rows, Share
from tests.builders.fitting import contributions
from tests.builders.lakes import example_rows, lake_of, run_etl
from tests.builders.poison import POISON_CSV, POISON_JSON, POISON_PARQUET, write_poison
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
    raw = Raw(tmp_path, declaration="tests.etl.test_expect:EXPECTING").add(rows_of(DAYS[0], 60))
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


def test_a_date_without_valid_rows_is_not_as_expected(spark: SparkSession) -> None:
    rows = spark.createDataFrame([], "ds string, age_years float, shop string")
    with pytest.raises(DateRefused, match="rows is 0") as refused:
        Findings(EXPECTING, {}).of_rows(rows, DAYS[:1])
    assert "nulls:age_years is nan" in str(refused.value)


def test_a_warning_is_logged(spark: SparkSession, caplog: pytest.LogCaptureFixture) -> None:
    few = replace(VISITS, expectations=(Rows(min=2, severity="warn"),))
    rows = spark.createDataFrame([(DAYS[0],)], "ds string")
    findings = Findings(few, {})
    with caplog.at_level(logging.WARNING, "millstream.etl"):
        findings.of_rows(rows, DAYS[:1])
    assert f"{DAYS[0]}: rows is 1, expected 2 to inf" in caplog.text
    assert findings.metrics == {DAYS[0]: {"rows": 1.0}}


def test_drift_is_the_same_for_dates_together_and_one_by_one(spark: SparkSession) -> None:
    days = [f"2024-01-0{day}" for day in range(1, 5)]
    rows = spark.createDataFrame(
        [
            (ds, float(i % (5 + 3 * day)), "abcdef"[i * (day + 1) % 7 % 6], None, None)
            for day, ds in enumerate(days)
            for i in range(40)
        ],
        "ds string, amount_log double, shop_id string, age_years double, shop_size double",
    ).selectExpr("*", "shop_id as age_group")
    counts = contributions(rows, VISITS, days)
    declared = replace(VISITS, expectations=(Drift("amount_log"), Drift("shop_id")))
    together = Findings(declared, {})
    together.of_contributions(counts, days[1:])
    apart: dict[str, Any] = {}
    for ds in reversed(days):
        one = Findings(declared, {})
        one.of_contributions(counts, [ds])
        apart |= one.metrics
    assert apart.pop(days[0]) == {}
    assert together.metrics == apart
    assert all(values["psi:amount_log"] > 0.01 for values in apart.values())


def test_drift_counts_nulls_apart(spark: SparkSession) -> None:
    counts = spark.createDataFrame(
        [
            {"field": "age_years", "ds": ds, **values}
            for ds, nulls in zip(DAYS, (10, 90), strict=True)
            for values in (
                {"count": 100 - nulls, "nulls": nulls},
                {"value": "5", "count": 100 - nulls},
            )
        ],
        CONTRIBUTIONS,
    )
    findings = Findings(replace(VISITS, expectations=(Drift("age_years"),)), {})
    findings.of_contributions(counts, DAYS)
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


def test_limits_by_reason_and_by_kind() -> None:
    tallies = {
        DAYS[0]: Tally(
            raw=100,
            reasons={
                ("unparsable:age", "unparsable:amount"): 2,
                ("unparsable:age",): 1,
                ("label_absent",): 50,
            },
        )
    }
    refuse_bad(tallies, 0.03, {"unparsable": 0.03, "unparsable:amount": 0.02, "null": 0})
    with pytest.raises(DateRefused, match=r"3 of 100 rows \(3.0%\) are refused for unparsable:age"):
        refuse_bad(tallies, 1, {"unparsable:age": 0.02})
    with pytest.raises(DateRefused, match=r"at most 2.0% \(etl.limits.unparsable\)"):
        refuse_bad(tallies, 1, {"unparsable": 0.02})
    with pytest.raises(DateRefused, match=r"50 of 100 rows .* for label_absent") as refused:
        refuse_bad(tallies, 1, {"label_absent": 0.1, "duplicate_key": 0})
    assert "3  unparsable:age" in str(refused.value)


def test_unknown_limits_and_severities_name_the_nearest(
    tmp_path: Path, spark: SparkSession, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = Raw(tmp_path).add(rows_of(DAYS[0], 5)).write()
    arguments = ["etl", "--config", str(raw.config), "--date", DAYS[0]]
    assert main([*arguments, "--set", "etl.limits.unparsable:agee=0.1"]) == 2
    assert "'unparsable:agee' is unknown; did you mean 'unparsable:age'?" in capsys.readouterr().err
    assert main([*arguments, "--set", "etl.severities.row=warn"]) == 2
    assert "etl.severities: 'row' is unknown" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="did you mean 'duplicate_key'"):
        check_limits(VISITS, ["duplicate_keys"])


@pytest.mark.parametrize(
    ("dataset", "format_"),
    [(POISON_CSV, "csv"), (POISON_JSON, "json"), (POISON_PARQUET, "parquet")],
)
def test_possible_reasons_are_those_that_occur(dataset: Any, format_: str, tmp_path: Path) -> None:
    planted: Counter[tuple[str, ...]] = write_poison(tmp_path / "poison", format_)
    assert {reason for reasons in planted for reason in reasons} <= set(possible_reasons(dataset))
