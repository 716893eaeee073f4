"""The gate: passes only what is measured, above the thresholds and better than the champion."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.evaluate.gate import judge
from jobs.sections import GateSettings

AUC = GateSettings(metric="auc", min_value=0.7, min_gain=0.01)
LOSS = GateSettings(metric="log_loss", max_value=0.5)


def test_a_first_model_must_reach_the_threshold() -> None:
    assert judge(AUC, {"auc": 0.7}, None).passed
    assert judge(LOSS, {"log_loss": 0.5}, None).passed

    low = judge(AUC, {"auc": 0.69}, None)
    assert low.reasons == ("auc 0.69, at least 0.7 wanted",)
    assert not judge(LOSS, {"log_loss": 0.51}, None).passed


def test_a_later_model_must_gain_on_the_champion_and_reach_the_threshold() -> None:
    assert judge(AUC, {"auc": 0.75}, {"auc": 0.73}).passed
    assert judge(LOSS, {"log_loss": 0.40}, {"log_loss": 0.41}).passed

    short = judge(AUC, {"auc": 0.75}, {"auc": 0.745})
    assert short.reasons == (
        "auc 0.75 against the champion's 0.745: higher by at least 0.01 wanted, found +0.005",
    )
    assert not judge(AUC, {"auc": 0.69}, {"auc": 0.5}).passed
    assert not judge(LOSS, {"log_loss": 0.42}, {"log_loss": 0.41}).passed


def test_an_equal_model_does_not_replace_the_champion() -> None:
    assert not judge(LOSS, {"log_loss": 0.4}, {"log_loss": 0.4}).passed


def test_a_negative_gain_allows_a_stated_loss() -> None:
    gate = GateSettings(metric="auc", min_value=0.5, min_gain=-0.01)

    assert judge(gate, {"auc": 0.795}, {"auc": 0.8}).passed
    assert not judge(gate, {"auc": 0.785}, {"auc": 0.8}).passed


@pytest.mark.parametrize(
    ("challenger", "champion", "reason"),
    [
        ({"brier": 0.1}, None, "the challenger has no metric 'auc'; it has brier"),
        ({"auc": math.nan}, None, "the challenger's auc is nan"),
        ({"auc": math.inf}, None, "the challenger's auc is inf"),
        ({"auc": 0.9}, {"brier": 0.1}, "the champion has no metric 'auc'; it has brier"),
        ({"auc": 0.9}, {"auc": math.nan}, "the champion's auc is nan"),
    ],
)
def test_what_cannot_be_compared_is_refused_by_name(
    challenger: dict[str, float], champion: dict[str, float] | None, reason: str
) -> None:
    verdict = judge(AUC, challenger, champion)

    assert not verdict.passed
    assert reason in verdict.reasons


def test_a_gate_without_thresholds_passes_nothing() -> None:
    verdict = judge(GateSettings(metric="auc"), {"auc": 1.0}, {"auc": 0.5})

    assert not verdict.passed
    assert "gate.min_value or gate.max_value" in verdict.reasons[0]


@given(st.floats(), st.floats() | st.none(), st.floats(-1, 1))
def test_what_passes_is_finite_and_better(
    challenger: float, champion: float | None, min_gain: float
) -> None:
    gate = GateSettings(metric="auc", min_value=0.6, min_gain=min_gain)

    verdict = judge(gate, {"auc": challenger}, None if champion is None else {"auc": champion})

    if verdict.passed:
        assert challenger >= 0.6
        assert math.isfinite(challenger)
        assert champion is None or challenger - champion >= min_gain
    else:
        assert verdict.reasons
