"""Limits on reasons: a date that breaks one is refused, naming it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from jobs.base.errors import ConfigError, DateRefused
from jobs.etl.judge.counts import DateCounts, refuse_bad
from jobs.etl.limits import check_limits, possible_reasons
from jobs.main import main
from jobs.rows.base.names import MARKS
from jobs.rows.judge.statement import Statement
from schemas.criteo import CRITEO
from schemas.dataset import Dataset
from schemas.field import Label
from schemas.flights import FLIGHTS
from tests.builders.baskets import BASKETS
from tests.builders.photos import PHOTOS
from tests.builders.poison import POISON_CSV, POISON_JSON, POISON_PARQUET, write_poison
from tests.builders.visits import VISITS, Raw, rows_of

DAY = "2024-01-01"


def test_limits_by_reason_and_by_kind() -> None:
    # Two rows have two reasons of a kind, which are one row of it.
    counts = {
        DAY: DateCounts(
            raw=100,
            quarantined=53,
            reasons={"unparsable:age": 3, "unparsable:amount": 2, "label_absent": 50},
            kinds={"unparsable": 3, "label_absent": 50},
            label_absent=50,
        )
    }
    refuse_bad(counts, 100, 0.03, {"unparsable": 0.03, "unparsable:amount": 0.02, "null": 0})
    with pytest.raises(DateRefused, match=r"3 of 100 rows \(3.0%\) are refused for unparsable:age"):
        refuse_bad(counts, 100, 1, {"unparsable:age": 0.02})
    with pytest.raises(DateRefused, match=r"at most 2.0% \(etl.limits.unparsable\)"):
        refuse_bad(counts, 100, 1, {"unparsable": 0.02})
    with pytest.raises(DateRefused, match=r"50 of 100 rows .* for label_absent") as refused:
        refuse_bad(counts, 100, 1, {"label_absent": 0.1, "duplicate_key": 0})
    assert "3  unparsable:age" in str(refused.value)


def test_unknown_limits_and_severities_name_the_nearest(
    tmp_path: Path, spark: SparkSession, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = Raw(tmp_path).add(rows_of(DAY, 5)).write()
    arguments = ["etl", "--config", str(raw.config), "--date", DAY]
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


@pytest.mark.parametrize(
    "dataset", [VISITS, POISON_CSV, POISON_JSON, POISON_PARQUET, BASKETS, PHOTOS, CRITEO, FLIGHTS]
)
def test_possible_reasons_are_those_of_the_engines_rules(dataset: Dataset) -> None:
    rules = {rule.reason for rule in Statement(dataset, (DAY,), True).rules}
    # Those of reading are by format.
    assert rules - set(MARKS) <= set(possible_reasons(dataset))


def test_limits_on_rows_of_no_class_and_on_headers_that_repeat_are_known() -> None:
    label = Label("label", "bought", task="multiclass", classes=3)
    dataset = replace(VISITS, fields=(label, *VISITS.fields[1:]))
    check_limits(dataset, ["no_class", "no_class:label", "repeated_header"])
    with pytest.raises(ConfigError, match="'no_class' is unknown"):
        check_limits(VISITS, ["no_class"])
    with pytest.raises(ConfigError, match="'repeated_header' is unknown"):
        check_limits(POISON_PARQUET, ["repeated_header"])
