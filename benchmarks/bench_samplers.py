"""The search's samplers on functions whose lowest values are known, beside random points.

    make bench-samplers

Each seed is a study of its own, asked as `millstream tune` asks, a trial at a time. Branin has two
numbers and three lowest points; Hartmann-6 has six numbers and five valleys besides the lowest.
https://www.sfu.ca/~ssurjano/optimization.html
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import optuna
import torch

from benchmarks.common import machine, print_figures, print_table
from jobs.settings.tune import Range, TuneSettings
from jobs.tune.samplers.samplers import sampler_of
from jobs.tune.samplers.space import suggested

SAMPLERS = ("random", "tpe", "gp", "cmaes", "bohamiann")

_ALPHA = np.array([1.0, 1.2, 3.0, 3.2])
_A = np.array(
    [
        [10, 3, 17, 3.5, 1.7, 8],
        [0.05, 10, 17, 0.1, 8, 14],
        [3, 3.5, 1.7, 10, 17, 8],
        [17, 8, 0.05, 10, 0.1, 14],
    ]
)
_P = 1e-4 * np.array(
    [
        [1312, 1696, 5569, 124, 8283, 5886],
        [2329, 4135, 8307, 3736, 1004, 9991],
        [2348, 1451, 3522, 2883, 3047, 6650],
        [4047, 8828, 8732, 5743, 1091, 381],
    ]
)


def branin(x: np.ndarray) -> float:
    a, b = x
    bent = b - 5.1 / (4 * np.pi**2) * a**2 + 5 / np.pi * a - 6
    return float(bent**2 + 10 * (1 - 1 / (8 * np.pi)) * np.cos(a) + 10)


def hartmann(x: np.ndarray) -> float:
    return -float(_ALPHA @ np.exp(-(_A * (x - _P) ** 2).sum(1)))


@dataclass(frozen=True)
class Problem:
    """A function, its space by number, and its lowest value."""

    function: Callable[[np.ndarray], float]
    space: Mapping[str, Range]
    lowest: float


PROBLEMS = {
    "Branin": Problem(
        branin, {"0": Range(low=-5.0, high=10.0), "1": Range(low=0.0, high=15.0)}, 0.397887
    ),
    "Hartmann-6": Problem(
        hartmann, {str(n): Range(low=0.0, high=1.0) for n in range(6)}, -3.322368
    ),
}


def best(task: tuple[str, str, int], trials: int) -> tuple[float, float]:
    """How far from the lowest value a study (problem, sampler, seed) came, and its CPU seconds."""
    name, sampler, seed = task
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    problem, started = PROBLEMS[name], time.process_time()
    # No settings of training: what is checked of a space would refuse them.
    settings = TuneSettings.model_construct(space=problem.space, sampler=sampler, seed=seed)
    study = optuna.create_study()
    for number in range(trials):
        study.sampler = sampler_of(settings, number)
        trial = study.ask()
        params = suggested(trial, problem.space)
        study.tell(trial, problem.function(np.array([params[key] for key in problem.space])))
    return study.best_value - problem.lowest, time.process_time() - started


def compared(name: str, seeds: int, trials: int, processes: int) -> dict[str, Any]:
    """Distances and seconds of all samplers on a problem."""
    tasks = [(name, sampler, seed) for sampler in SAMPLERS for seed in range(seeds)]
    with ProcessPoolExecutor(processes) as pool:
        found = list(pool.map(partial(best, trials=trials), tasks))
    figures: dict[str, Any] = {}
    for place, sampler in enumerate(SAMPLERS):
        own = found[place * seeds : (place + 1) * seeds]
        gaps = sorted(gap for gap, _ in own)
        figures[sampler] = {
            "median": median(gaps),
            "quartiles": np.percentile(gaps, (25, 75)).tolist(),
            "worst": gaps[-1],
            "cpu_s_a_study": sum(seconds for _, seconds in own) / seeds,
        }
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    options = parser.parse_args()
    print(machine("optuna", "cmaes", "torch"))
    figures = {}
    for name, problem in PROBLEMS.items():
        print(
            f"\n{name}, lowest {problem.lowest}; {options.seeds} seeds, {options.trials} trials:\n"
        )
        figures[name] = compared(name, options.seeds, options.trials, options.processes)
        print_table(
            ("sampler", "median above the lowest", "quartiles", "worst", "CPU s a study"),
            [
                (
                    sampler,
                    f"{row['median']:.4f}",
                    " to ".join(f"{gap:.4f}" for gap in row["quartiles"]),
                    f"{row['worst']:.4f}",
                    f"{row['cpu_s_a_study']:.1f}",
                )
                for sampler, row in figures[name].items()
            ],
        )
        medians = {sampler: row["median"] for sampler, row in figures[name].items()}
        worse = [one for one in SAMPLERS[1:] if medians[one] >= medians["random"]]
        print(f"\nnot better than random: {', '.join(worse) or 'none'}", flush=True)
    print_figures(figures)


if __name__ == "__main__":
    main()
