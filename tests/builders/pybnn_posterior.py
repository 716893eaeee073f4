"""pybnn's posterior, for the tests, in an environment of its own.

    PYTHON pybnn_posterior.py < problem > moments

A problem, as JSON: `x` and `y` of observations, `at`, `seeds`, `burn_in`, `steps`, `keep_every`.
Prints for each seed the mean and the deviation at each place.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import torch
from pybnn.bohamiann import Bohamiann


def main() -> None:
    problem = json.load(sys.stdin)
    torch.set_num_threads(1)
    found = []
    for seed in problem["seeds"]:
        torch.manual_seed(seed)
        model = Bohamiann()
        model.train(
            np.array(problem["x"]),
            np.array(problem["y"]),
            num_steps=problem["steps"],
            num_burn_in_steps=problem["burn_in"],
            keep_every=problem["keep_every"],
            lr=1e-2,
        )
        mean, variance = model.predict(np.array(problem["at"]))
        found.append([mean.tolist(), np.sqrt(variance).tolist()])
    json.dump(found, sys.stdout)


main()
