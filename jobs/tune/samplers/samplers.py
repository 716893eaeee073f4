"""Who asks for the next trial: a sampler whose random numbers follow from the trial's number alone;
a grid, and a sequence that fills the space evenly, need no earlier trials.

https://optuna.readthedocs.io/en/stable/reference/samplers/
"""

from __future__ import annotations

import hashlib
from typing import Any

from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from scipy.stats import qmc

from jobs.settings.tune import TuneSettings
from jobs.tune.samplers.bohamiann import BohamiannSampler
from jobs.tune.samplers.evolution import EvolutionSampler
from jobs.tune.samplers.gaussian import GaussianProcessSampler
from jobs.tune.samplers.space import grid, point


def sampler_of(settings: TuneSettings, number: int) -> BaseSampler:
    """The sampler of a trial; a grid's and a sequence's points are given to it."""
    seed = seed_of(settings.seed, number)
    if settings.sampler == "tpe":
        return TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)
    if settings.sampler == "gp":
        return GaussianProcessSampler(seed)
    if settings.sampler == "bohamiann":
        return BohamiannSampler(settings.space, seed)
    if settings.sampler == "cmaes":
        return EvolutionSampler(settings.space, seed)
    return RandomSampler(seed=seed)


def trials_of(settings: TuneSettings) -> int:
    """Trials of the whole study: a grid ends with its points."""
    if settings.sampler != "grid":
        return settings.trials
    return min(settings.trials, len(grid(settings.space)))


def fixed_params(settings: TuneSettings, number: int) -> dict[str, Any] | None:
    """What Optuna is to give a trial, where the sampler is a list of points; else None.

    The sequence is Sobol's, scrambled by the study's seed: Joe and Kuo 2008, as SciPy has it.
    """
    if settings.sampler == "grid":
        return grid(settings.space)[number]
    if settings.sampler == "quasi_random":
        sequence = qmc.Sobol(len(settings.space), rng=settings.seed)
        if number:
            sequence.fast_forward(number)
        return point(settings.space, sequence.random(1)[0].tolist())
    return None


def seed_of(study_seed: int, number: int) -> int:
    """A seed below 2^32 for a trial of a study."""
    digest = hashlib.sha256(f"{study_seed}:{number}".encode()).digest()
    return int.from_bytes(digest[:4], "little")
