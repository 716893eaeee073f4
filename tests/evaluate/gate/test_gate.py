"""The gate: passes only what is measured, above the thresholds and better than the champion."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from jobs.evaluate.gate.gate import decide
from jobs.evaluate.measure.group import Group
from jobs.evaluate.measure.metrics import Metrics
from jobs.settings.evaluate import GateSettings


def _gate(*rules: dict[str, Any], **settings: Any) -> GateSettings:
    return GateSettings.model_validate({"rules": rules, **settings})


def _measured(
    rows: int = 1_000,
    slices: dict[Group, Metrics] | None = None,
    noise: float = 0.0,
    **values: float,
) -> Metrics:
    draw = np.random.default_rng(1)
    replicates = {name: value + noise * draw.normal(size=50) for name, value in values.items()}
    return Metrics("binary", rows, float(rows), values, replicates, slices=slices or {})


AUC = _gate({"metric": "auc", "min_value": 0.7, "min_gain": 0.01})
LOSS = _gate({"metric": "log_loss", "max_value": 0.5, "min_gain": 0})


def test_a_first_model_must_reach_the_threshold() -> None:
    assert decide(AUC, _measured(auc=0.7), None).passed
    assert decide(LOSS, _measured(log_loss=0.5), None).passed

    low = decide(AUC, _measured(auc=0.69), None)
    assert low.reasons == ("auc of all rows 0.69, at least 0.7 wanted",)
    assert not decide(LOSS, _measured(log_loss=0.51), None).passed


def test_the_first_model_has_a_declared_policy() -> None:
    good = _measured(auc=0.9)
    rule = {"metric": "auc", "min_value": 0.7}

    refused = decide(_gate(rule, first_model="refuse"), good, None)
    assert refused.reasons == ("there is no champion yet (gate.first_model: refuse)",)
    assert decide(_gate(rule, first_model="accept"), _measured(auc=0.1), None).passed
    only_changes = decide(_gate({"metric": "auc", "min_gain": 0}), good, None)
    assert "no rule has a min_value or max_value" in only_changes.reasons[0]


def test_a_later_model_must_gain_on_the_champion_and_reach_the_threshold() -> None:
    assert decide(AUC, _measured(auc=0.75), _measured(auc=0.73)).passed
    assert decide(LOSS, _measured(log_loss=0.40), _measured(log_loss=0.41)).passed

    short = decide(AUC, _measured(auc=0.75), _measured(auc=0.745))
    assert short.reasons == (
        "auc of all rows 0.75 against the champion's 0.745: higher by at least 0.01 wanted, "
        "found +0.005",
    )
    assert not decide(AUC, _measured(auc=0.69), _measured(auc=0.5)).passed
    assert not decide(LOSS, _measured(log_loss=0.42), _measured(log_loss=0.41)).passed


def test_an_equal_model_does_not_replace_the_champion() -> None:
    assert not decide(LOSS, _measured(log_loss=0.4), _measured(log_loss=0.4)).passed


def test_a_negative_gain_allows_a_stated_loss() -> None:
    gate = _gate({"metric": "auc", "min_gain": -0.01})

    assert decide(gate, _measured(auc=0.795), _measured(auc=0.8)).passed
    assert not decide(gate, _measured(auc=0.785), _measured(auc=0.8)).passed


def test_a_relative_gain_is_a_share_of_the_champions_value() -> None:
    gate = _gate({"metric": "log_loss", "min_relative_gain": 0.05})

    assert decide(gate, _measured(log_loss=0.37), _measured(log_loss=0.4)).passed
    assert not decide(gate, _measured(log_loss=0.39), _measured(log_loss=0.4)).passed
    zero = decide(gate, _measured(log_loss=0.0), _measured(log_loss=0.0))
    assert "no share of a champion's value of 0 can be told" in zero.reasons[0]


def test_non_inferiority_needs_the_whole_interval() -> None:
    gate = _gate({"metric": "auc", "max_loss": 0.01})

    assert decide(gate, _measured(auc=0.799), _measured(auc=0.8)).passed
    # The same noise in both cancels, since differences are paired by block.
    assert decide(gate, _measured(auc=0.799, noise=0.01), _measured(auc=0.8, noise=0.01)).passed
    unsure = decide(gate, _measured(auc=0.799, noise=0.01), _measured(auc=0.8))
    assert "no worse than -0.01 wanted" in unsure.reasons[0]
    blind = Metrics("binary", 1_000, 1_000.0, {"auc": 0.9})
    assert "has no interval" in decide(gate, blind, _measured(auc=0.8)).reasons[0]


def test_every_group_of_a_slice_is_judged_but_small_ones() -> None:
    slices = {
        Group(("shop",), ("a",)): _measured(auc=0.9),
        Group(("shop",), ("b",)): _measured(auc=0.6),
        Group(("shop",), None): _measured(auc=0.55),
        Group(("shop",), ("c",)): _measured(rows=20, auc=0.1),
        Group(("shop", "age"), ("a", "3")): _measured(auc=0.1),
    }
    verdict = decide(
        _gate({"metric": "auc", "slice": "shop", "min_value": 0.7, "min_rows": 50}),
        _measured(auc=0.8, slices=slices),
        None,
    )

    assert verdict.reasons == (
        "auc of slice shop=(other) 0.55, at least 0.7 wanted",
        "auc of slice shop=b 0.6, at least 0.7 wanted",
    )
    assert "20 rows of slice shop=c, at least 50 wanted: not checked" in verdict.checks
    crossed = _gate({"metric": "auc", "slice": "shop x age", "min_value": 0.7})
    assert decide(crossed, _measured(auc=0.8, slices=slices), None).reasons == (
        "auc of slice shop=a,age=3 0.1, at least 0.7 wanted",
    )


def test_a_rule_whose_groups_are_all_skipped_refuses() -> None:
    """Nothing at all would be checked."""
    shops = {Group(("shop",), (name,)): _measured(rows=20, auc=0.1) for name in "ab"}
    gate = _gate({"metric": "auc", "slice": "shop", "min_value": 0.7, "min_rows": 50})

    verdict = decide(gate, _measured(auc=0.9, slices=shops), None)

    assert verdict.reasons == (
        "no group of slice shop has 50 rows: the rule on its auc checked nothing",
    )


ODD = (
    "New York, NY",
    "a=b",
    "a x b",
    'q"q',
    "a\nb",
    "",
    " ",
    "(other)",
    "(null)",
    ">=8",
    "city=x,b=1",
)


@pytest.mark.parametrize("value", [*ODD, None])
def test_a_group_of_any_value_is_judged(value: str | None) -> None:
    """Beside one that passes: what a value reads like hides no group."""
    odd, plain = Group(("city",), (value,)), Group(("city",), ("Boston",))
    slices = {odd: _measured(auc=0.42), plain: _measured(auc=0.9)}
    measured = _measured(auc=0.8, slices=slices)

    for slice_ in ("city", str(odd), odd.plain):
        verdict = decide(
            _gate({"metric": "auc", "slice": slice_, "min_value": 0.65}), measured, None
        )
        assert verdict.reasons == (f"auc of slice {odd} 0.42, at least 0.65 wanted",)


_TEXTS = st.none() | st.sampled_from(ODD) | st.text(max_size=4)
_COLUMNS = st.sampled_from(["a", "a x b", "a=b", "b", "a,b", '"'])


@given(
    st.lists(st.lists(st.tuples(_COLUMNS, _TEXTS), min_size=1, max_size=2), min_size=2, max_size=2),
    st.booleans(),
)
def test_no_two_groups_read_alike(
    pairs: list[list[tuple[str, str | None]]], second_is_rest: bool
) -> None:
    one, other = (Group(tuple(c for c, _ in group), tuple(v for _, v in group)) for group in pairs)
    if second_is_rest:
        other = Group(other.by, None)

    assert (str(one) == str(other)) == (one == other)


@pytest.mark.parametrize("slice_", ["shop", "shop=d"])
def test_an_absent_slice_is_refused_by_name(slice_: str) -> None:
    gate = _gate({"metric": "auc", "slice": slice_, "min_value": 0.7})

    verdict = decide(gate, _measured(auc=0.9), _measured(auc=0.8))

    expected = f"the challenger was not measured on slice '{slice_}': evaluate.slices"
    assert expected in verdict.reasons


def test_too_few_rows_are_refused() -> None:
    verdict = decide(AUC, _measured(rows=99, auc=0.9), None)

    assert verdict.reasons == ("99 rows of all rows, at least 100 wanted",)
    named = _gate({"metric": "auc", "slice": "shop=a", "min_value": 0.5})
    few = _measured(auc=0.9, slices={Group(("shop",), ("a",)): _measured(rows=5, auc=0.9)})
    assert not decide(named, few, None).passed


@pytest.mark.parametrize(
    ("challenger", "champion", "reason"),
    [
        (
            _measured(brier=0.1),
            None,
            "the challenger has no metric 'auc' of all rows; it has brier",
        ),
        (_measured(auc=math.nan), None, "the challenger's auc of all rows is nan"),
        (_measured(auc=math.inf), None, "the challenger's auc of all rows is inf"),
        (
            _measured(auc=0.9),
            _measured(brier=0.1),
            "the champion has no metric 'auc' of all rows; it has brier",
        ),
        (_measured(auc=0.9), _measured(auc=math.nan), "the champion's auc of all rows is nan"),
    ],
)
def test_what_cannot_be_compared_is_refused_by_name(
    challenger: Metrics, champion: Metrics | None, reason: str
) -> None:
    verdict = decide(AUC, challenger, champion)

    assert not verdict.passed
    assert reason in verdict.reasons


def test_a_gate_without_rules_passes_nothing() -> None:
    verdict = decide(GateSettings(), _measured(auc=1.0), _measured(auc=0.5))

    assert not verdict.passed
    assert verdict.reasons == ("the gate has no rule: give gate.rules thresholds",)
    with pytest.raises(ValidationError, match="a rule without a threshold"):
        _gate({"metric": "auc"})


@given(st.floats(), st.floats() | st.none(), st.floats(-1, 1))
def test_what_passes_is_finite_and_better(
    challenger: float, champion: float | None, min_gain: float
) -> None:
    gate = _gate({"metric": "auc", "min_value": 0.6, "min_gain": min_gain})

    verdict = decide(
        gate, _measured(auc=challenger), None if champion is None else _measured(auc=champion)
    )

    if verdict.passed:
        assert challenger >= 0.6
        assert math.isfinite(challenger)
        assert champion is None or challenger - champion >= min_gain
    else:
        assert verdict.reasons
