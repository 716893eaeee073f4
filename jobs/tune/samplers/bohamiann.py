"""BOHAMIANN: the next trial is where Bayesian neural networks expect the most improvement.

Springenberg, Klein, Falkner, Hutter: Bayesian optimization with robust Bayesian neural networks,
NIPS 2016. The networks are sampled anew for each trial, from its seed and the trials before it, so
a study that is cut short goes on as the same.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from torch import Tensor

from jobs.settings.tune import Choices
from jobs.tune.samplers.posterior import Posterior, sampled
from jobs.tune.samplers.space import Entries, features, places, point
from jobs.tune.samplers.whole_space import WholeSpaceSampler

_STARTUP_TRIALS = 10
# Points that are compared: drawn from the whole space, then around the best so far, ever closer.
_ANYWHERE, _AROUND = 500, 100
_CLOSER = (0.2, 0.1, 0.05, 0.02, 0.01, 0.003)
_CHOSEN_AGAIN = 0.2
# A place is below 1.
_BELOW_ONE = math.nextafter(1, 0)

Point = dict[str, Any]


class BohamiannSampler(WholeSpaceSampler):
    """Chooses by expected improvement, which networks given the trials so far foresee.

    A trial that failed counts as the worst, one that runs as the best so far, which sends those of
    its generation elsewhere. The first trials are random.

    Args:
        entries: the space, whose conditions are kept.
        seed: of all random numbers.
    """

    def __init__(self, entries: Entries, seed: int) -> None:
        super().__init__(entries, seed)
        self._generator = torch.Generator().manual_seed(seed)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> Point:
        before = study.get_trials(deepcopy=False)[: trial.number]
        if sum(one.state.is_finished() for one in before) < _STARTUP_TRIALS:
            return {}
        losses = _losses(before, study.direction == StudyDirection.MAXIMIZE)
        inputs = self._inputs([one.params for one in before])
        # The order of a sum, and so its bits, follow from the number of threads.
        with _one_thread():
            return self._best(sampled(inputs, losses, self._generator), before, losses)

    def _best(self, posterior: Posterior, before: Sequence[FrozenTrial], losses: Tensor) -> Point:
        """The point with the most improvement of those that no trial has had; {} if all had."""
        known = {_key(one.params) for one in before}
        incumbent = places(self._entries, before[int(losses.argmin())].params)
        most, best, centres = -math.inf, {}, [incumbent]
        for spread in (None, *_CLOSER):
            drawn = self._anywhere() if spread is None else self._around(centres, spread)
            points = [point(self._entries, row) for row in drawn]
            new = [place for place, one in enumerate(points) if _key(one) not in known]
            if not new:
                continue
            inputs = self._inputs([points[place] for place in new])
            gains = expected_improvement(*posterior.moments(inputs), float(losses.min()))
            first = int(gains.argmax())
            if gains[first] > most:
                most, best = float(gains[first]), points[new[first]]
                centres = [incumbent, drawn[new[first]]]
        return best

    def _anywhere(self) -> list[list[float]]:
        return self._uniform(_ANYWHERE).tolist()

    def _around(self, centres: list[list[float]], spread: float) -> list[list[float]]:
        """Places near the centres; a choice is made again now and then."""
        middle = torch.tensor(centres, dtype=torch.float64).repeat_interleave(_AROUND, 0)
        shift = torch.empty_like(middle).normal_(std=spread, generator=self._generator)
        near = (middle + shift).clamp(0, _BELOW_ONE)
        other = self._uniform(len(middle))
        choices = torch.tensor([isinstance(one, Choices) for one in self._entries.values()])
        again = self._uniform(len(middle)) < _CHOSEN_AGAIN
        return torch.where(choices, torch.where(again, other, middle), near).tolist()

    def _uniform(self, rows: int) -> Tensor:
        size = (rows, len(self._entries))
        return torch.rand(size, generator=self._generator, dtype=torch.float64)

    def _inputs(self, points: Sequence[Mapping[str, Any]]) -> Tensor:
        rows = [features(self._entries, one) for one in points]
        return torch.tensor(rows)


def expected_improvement(mean: Tensor, deviation: Tensor, lowest: float) -> Tensor:
    """How far below `lowest` a normal value is expected to be, where above counts as 0."""
    gap = (lowest - mean) / deviation
    density = (-gap.square() / 2).exp() / math.sqrt(2 * math.pi)
    below: Tensor = torch.special.ndtr(gap)
    return deviation * (gap * below + density)


def _losses(trials: Sequence[FrozenTrial], maximize: bool) -> Tensor:
    """What is to be low, of each trial; the worst of one that failed, the best of one that runs."""
    sign = -1.0 if maximize else 1.0
    found = [sign * one.value for one in trials if one.value is not None] or [0.0]
    worst, best = max(found), min(found)
    missing = {TrialState.FAIL: worst}
    values = [
        sign * one.value if one.value is not None else missing.get(one.state, best)
        for one in trials
    ]
    return torch.tensor(values)


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _key(stored: Mapping[str, Any]) -> str:
    return json.dumps(stored, sort_keys=True)
