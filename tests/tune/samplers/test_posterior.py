"""The networks are sampled as pybnn samples them, and as the papers' equations say."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import asdict

import numpy as np
import pytest
import torch

from jobs.tune.samplers import posterior
from jobs.tune.samplers.posterior import Chain, sampled
from tests.builders.worlds import ROOT, interpreter

SEEDS = range(4)
CHAIN = Chain(burn_in=2_000, steps=6_000, keep_every=50)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As the sampler has it: two threads' sums have other bits, and wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def sinc() -> tuple[np.ndarray, np.ndarray]:
    """The toy set of the paper, as its authors' code has it: 20 places in [0, 1]."""
    x = np.random.default_rng(1).random((20, 1))
    return x, np.sinc(x[:, 0] * 10 - 5)


def moments(seed: int, at: np.ndarray, chain: Chain | None = None) -> np.ndarray:
    """Mean and deviation at places, [2, M]."""
    x, y = (torch.from_numpy(part).float() for part in sinc())
    networks = sampled(x, y, torch.Generator().manual_seed(seed), chain)
    return np.stack([part.numpy() for part in networks.moments(torch.from_numpy(at).float())])


def pybnn_moments(at: np.ndarray) -> np.ndarray:
    """The same of pybnn, for each seed: [seeds, 2, M]."""
    x, y = sinc()
    problem = {"x": x.tolist(), "y": y.tolist(), "at": at.tolist(), "seeds": list(SEEDS)}
    command = [interpreter("pybnn"), str(ROOT / "tests" / "builders" / "pybnn_posterior.py")]
    done = subprocess.run(
        command,
        input=json.dumps({**problem, **asdict(CHAIN)}),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return np.array(json.loads(done.stdout))


@pytest.mark.slow
def test_mean_and_spread_differ_from_pybnns_less_than_seeds_do() -> None:
    # Between the observations: beyond them seeds agree on nothing.
    at = np.linspace(sinc()[0].min(), sinc()[0].max(), 25)[:, None]
    ours = np.stack([moments(seed, at, CHAIN) for seed in SEEDS])
    theirs = pybnn_moments(at)
    for which in (0, 1):
        mine, other = (np.log(p[:, which]) if which else p[:, which] for p in (ours, theirs))
        error = np.sqrt((mine.var(0, ddof=1) + other.var(0, ddof=1)) / len(SEEDS))
        apart = (mine.mean(0) - other.mean(0)) / error
        # 1 where both are the same law, and places were independent.
        assert np.sqrt((apart**2).mean()) < 2


def test_the_gradient_is_autograds() -> None:
    x, y = (torch.from_numpy(part).float() for part in sinc())
    generator, rows = torch.Generator().manual_seed(1), torch.arange(3, 15)
    weights = posterior._fresh(1, generator)
    found = posterior._Gradient(weights, x, y).at(rows)
    again = weights.clone().requires_grad_()
    parts = posterior._parts(again, 1)
    errors, noise = y[rows] - posterior._outputs(parts, x[rows]).squeeze(-1), parts[-1]
    loss = (errors.square() / noise.exp() + noise).mean() * len(y) / 2
    loss = (
        loss
        + (noise - np.log(1e-6)).square().sum() / 0.02
        + again.square().sum() / (2 * len(again))
    )
    loss.backward()
    assert torch.allclose(found, again.grad, rtol=1e-4, atol=1e-3)


def test_the_same_seed_gives_the_same_bits() -> None:
    at, short = np.linspace(0, 1, 7)[:, None], Chain(burn_in=50, steps=150, keep_every=10)
    first = moments(3, at, short)
    torch.rand(5)
    assert (moments(3, at, short) == first).all()
    assert (moments(4, at, short) != first).any()


def test_spread_is_small_at_observations_and_large_far_away() -> None:
    x, y = sinc()
    _, near = moments(0, x)
    _, far = moments(0, np.array([[-1.0], [2.0]]))
    assert near.max() < far.min()
    assert np.abs(moments(0, x)[0] - y).max() < 0.1
