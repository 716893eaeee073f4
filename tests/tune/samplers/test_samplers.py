"""A sampler's trial follows from its seed and the trials before it, from which it learns."""

from __future__ import annotations

import math
from statistics import median
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from jobs.settings.tune import TuneSettings
from jobs.tune.samplers.samplers import sampler_of
from jobs.tune.samplers.space import suggested

RANGES = {
    "train.learning_rate": {"low": 1e-4, "high": 1.0, "log": True},
    "train.dropout": {"low": 0.0, "high": 0.9},
}
MIXED = {
    "train.model": ["mlp", "dcn_v2"],
    "train.cross_layers": {"low": 1, "high": 6, "when": {"train.model": ["dcn_v2"]}},
    "train.hidden": [[8], [16, 8], [32]],
    **RANGES,
}


def loss(params: dict[str, Any]) -> float:
    """Lowest, 0, at a learning rate of 0.01, dropout 0.3, and of a mixed space dcn_v2, 4 layers."""
    rate = (math.log10(params["train.learning_rate"]) + 2) ** 2
    model = 4.0 if params.get("train.model") == "mlp" else 0.0
    layers = abs(params.get("train.cross_layers", 4) - 4)
    return rate + 10 * (params["train.dropout"] - 0.3) ** 2 + model + layers


def study_of(settings: TuneSettings, trials: int, generation: int = 1) -> optuna.Study:
    """A study asked in generations, in which each fifth trial fails."""
    study = optuna.create_study()
    for first in range(0, trials, generation):
        asked = []
        for number in range(first, first + generation):
            study.sampler = sampler_of(settings, number)
            trial = study.ask()
            asked.append((trial, suggested(trial, settings.space)))
        for trial, params in asked:
            if trial.number % 5 == 4:
                study.tell(trial, state=TrialState.FAIL)
            else:
                study.tell(trial, loss(params))
    return study


def params_of(study: optuna.Study) -> list[dict[str, Any]]:
    return [one.params for one in study.trials]


def settings_of(sampler: str, space: dict[str, Any]) -> TuneSettings:
    return TuneSettings.model_validate({"sampler": sampler, "space": space})


@pytest.mark.parametrize(
    ("sampler", "space", "trials"),
    [("cmaes", RANGES, 18), pytest.param("bohamiann", MIXED, 30, marks=pytest.mark.slow)],
)
def test_the_same_seed_asks_for_the_same_trials_and_learns(
    sampler: str, space: dict[str, Any], trials: int
) -> None:
    settings = settings_of(sampler, space)
    study = study_of(settings, trials, generation=3)
    assert params_of(study_of(settings, trials, generation=3)) == params_of(study)
    other = settings.model_copy(update={"seed": 8})
    assert params_of(study_of(other, 3, generation=3)) != params_of(study)[:3]
    random = study_of(settings_of("random", space), trials, generation=3)
    assert study.best_value < random.best_value
    assert len({str(params) for params in params_of(study)}) == trials
    for params in params_of(study):
        assert ("train.cross_layers" in params) == (params.get("train.model") == "dcn_v2")


@pytest.mark.parametrize("sampler", ["tpe", "gp", "bohamiann"])
def test_trials_that_were_stopped_teach_too(sampler: str) -> None:
    """Where trials stop at rungs, hardly any ends."""

    told = optuna.create_study()
    for number in range(24):
        told.sampler = sampler_of(settings_of("random", RANGES), number)
        trial = told.ask()
        trial.report(loss(suggested(trial, settings_of("random", RANGES).space)), 100)
        told.tell(trial, state=TrialState.PRUNED)

    def losses(kind: str) -> list[float]:
        """Of what is asked for next, by several seeds."""
        found = []
        for seed in range(4):
            study = optuna.create_study()
            study.add_trials(told.trials)
            settings = settings_of(kind, RANGES).model_copy(update={"seed": seed})
            study.sampler = sampler_of(settings, 24)
            found.append(loss(suggested(study.ask(), settings.space)))
        return found

    assert median(losses(sampler)) < median(losses("random")) / 2


def test_bohamiann_ends_where_nothing_new_is_left() -> None:
    settings = settings_of("bohamiann", {"train.hidden": [[8], [16]], "train.cross_layers": [1, 2]})
    study = optuna.create_study()
    for number in range(13):
        study.sampler = sampler_of(settings, number)
        trial = study.ask()
        study.tell(trial, float(len(suggested(trial, settings.space))))
    assert len({str(one.params) for one in study.trials}) == 4


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"train.hidden": [[8], [16]]}, "train.hidden has a list of values"),
        (
            {
                "train.epochs": {"low": 1, "high": 2},
                "train.cross_layers": {"low": 1, "high": 3, "when": {"train.epochs": [2]}},
            },
            "train.cross_layers has a condition",
        ),
    ],
)
def test_cmaes_names_what_it_cannot_search(entry: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        settings_of("cmaes", {**RANGES, **entry})
