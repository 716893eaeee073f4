"""Optuna's Gaussian process, told of stopped trials too.

By itself it learns from those alone that went to their end. Where trials stop at rungs these are so
few that it would draw at random for most of a study.
"""

from __future__ import annotations

from typing import Any

import optuna
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import GPSampler
from optuna.trial import FrozenTrial, TrialState, create_trial


class GaussianProcessSampler(GPSampler):
    """Expected improvement; a trial that was stopped counts with its value at the last rung.

    Args:
        seed: of all random numbers.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(seed=seed, deterministic_objective=True)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return super().infer_relative_search_space(_with_stopped(study), trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        seen = _with_stopped(study)
        own = seen.get_trials(deepcopy=False)[trial.number]
        return super().sample_relative(seen, own, search_space)


def _with_stopped(study: Study) -> Study:
    """The study in memory, with stopped trials as if they had ended there."""
    seen = optuna.create_study(direction=study.direction)
    seen.add_trials(map(_as_ended, study.get_trials(deepcopy=False)))
    return seen


def _as_ended(trial: FrozenTrial) -> FrozenTrial:
    if trial.state != TrialState.PRUNED or trial.value is None:
        return trial
    return create_trial(params=trial.params, distributions=trial.distributions, value=trial.value)
