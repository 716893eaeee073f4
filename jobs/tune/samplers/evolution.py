"""CMA-ES, whose state is made again from the trials that were told of.

Optuna's own sampler of this name pickles its state into the journal, and unpickles what it finds
there; this one takes the same package's strategy through the trials once more, which is quick.

Hansen: The CMA evolution strategy, a tutorial, arXiv:1604.00772.
"""

from __future__ import annotations

from typing import Any

import cmaes
import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from jobs.tune.samplers.space import places, point
from jobs.tune.samplers.whole_space import WholeSpaceSampler

# Of the strategy's first spread, in a space from 0 to 1 along each entry.
_FIRST_SPREAD = 1 / 6


class EvolutionSampler(WholeSpaceSampler):
    """Draws from a normal distribution that moves to, and takes the shape of, the better trials.

    Args:
        entries: the space; ranges without conditions.
        seed: of all random numbers.
    """

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        before = study.get_trials(deepcopy=False)[: trial.number]
        sign = -1.0 if study.direction == StudyDirection.MAXIMIZE else 1.0
        told = [one for one in before if one.value is not None]
        strategy = self._strategy()
        size = strategy.population_size
        for first in range(0, len(told) - size + 1, size):
            strategy.tell([self._solution(one, sign) for one in told[first : first + size]])
        return point(self._entries, np.clip(strategy.ask(), 0, np.nextafter(1, 0)).tolist())

    def _strategy(self) -> cmaes.CMA:
        size = len(self._entries)
        bounds = np.tile([0.0, 1.0], (size, 1))
        return cmaes.CMA(np.full(size, 0.5), _FIRST_SPREAD, bounds=bounds, seed=self._seed)

    def _solution(self, trial: FrozenTrial, sign: float) -> tuple[np.ndarray, float]:
        assert trial.value is not None
        return np.array(places(self._entries, trial.params)), sign * trial.value
