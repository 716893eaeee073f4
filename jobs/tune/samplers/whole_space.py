"""What samplers that choose all entries of a space together have in common."""

from __future__ import annotations

from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial

from jobs.tune.samplers.space import Entries, distributions


class WholeSpaceSampler(BaseSampler):
    """Draws at random what `sample_relative` leaves open.

    Args:
        entries: the space.
        seed: of all random numbers.
    """

    def __init__(self, entries: Entries, seed: int) -> None:
        self._entries, self._seed = entries, seed
        self._random = RandomSampler(seed=seed)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return distributions(self._entries)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return self._random.sample_independent(study, trial, param_name, param_distribution)
