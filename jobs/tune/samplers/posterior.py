"""Bayesian neural networks, sampled by adaptive stochastic-gradient Hamiltonian Monte Carlo.

Springenberg, Klein, Falkner, Hutter: Bayesian optimization with robust Bayesian neural networks,
NIPS 2016; equation numbers are theirs. Sizes and priors are those of the authors' `pybnn`.

N observations of D numbers; S networks of P weights; H hidden units a layer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_HIDDEN = 50
_BATCH = 20
# The step size, and how much momentum a step loses: epsilon, and epsilon V^-1/2 C, of equation 10.
_STEP, _FRICTION = 1e-2, 0.05
# Log variance of the observations' noise: where it begins, and its normal prior.
_FIRST_NOISE, _NOISE_MEAN, _NOISE_VARIANCE = math.log(1e-3), math.log(1e-6), 0.01
_TINY = 1e-10


@dataclass(frozen=True)
class Chain:
    """How long a chain is.

    Attributes:
        burn_in: steps in which the sampler adapts its scales; their networks are not kept.
        steps: all steps, those of the burn-in among them.
        keep_every: steps between networks that are kept.
    """

    burn_in: int = 1_000
    steps: int = 2_500
    keep_every: int = 50


@dataclass(frozen=True)
class Posterior:
    """Networks that were sampled given observations.

    Attributes:
        weights: [S, P].
        x_scale, y_scale: mean and deviation, by which inputs and values were standardised.
    """

    weights: Tensor
    x_scale: tuple[Tensor, Tensor]
    y_scale: tuple[Tensor, Tensor]

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation [M] of an observation at each of the inputs [M, D]."""
        mean, deviation = self.x_scale
        parts = _parts(self.weights, x.shape[1])
        outputs = _outputs(parts, (x - mean) / deviation).squeeze(-1)
        noise = parts[-1].exp()
        variance = (outputs.var(0, correction=0) + noise.mean(0)).clamp_min(0.0)
        return outputs.mean(0) * self.y_scale[1] + self.y_scale[0], variance.sqrt() * self.y_scale[
            1
        ]


def sampled(
    x: Tensor, y: Tensor, generator: torch.Generator, chain: Chain | None = None
) -> Posterior:
    """Networks sampled given observations.

    Args:
        x: float32 [N, D].
        y: float32 [N].
        generator: all random numbers are its; the same state gives the same bits on one thread
            of the same kind of processor.
    """
    chain = chain or Chain()
    x_scale, y_scale = _scale(x), _scale(y)
    inputs, values = (x - x_scale[0]) / x_scale[1], (y - y_scale[0]) / y_scale[1]
    return Posterior(_walk(inputs, values, generator, chain), x_scale, y_scale)


def _walk(x: Tensor, y: Tensor, generator: torch.Generator, chain: Chain) -> Tensor:
    """The networks kept of a chain, [S, P]."""
    weights = _fresh(x.shape[1], generator)
    sampler = _Sampler(weights, generator)
    gradient = _Gradient(weights, x, y)
    kept = []
    for step in range(1, chain.steps + 1):
        rows = torch.randperm(len(x), generator=generator)[:_BATCH]
        sampler.move(gradient.at(rows), adapt=step <= chain.burn_in)
        if step > chain.burn_in and (step - chain.burn_in) % chain.keep_every == 0:
            kept.append(weights.clone())
    return torch.stack(kept)


class _Sampler:
    """Moves weights [P], in place, by equation 10; the burn-in adapts its scales."""

    def __init__(self, weights: Tensor, generator: torch.Generator) -> None:
        self._weights, self._generator = weights, generator
        self._momentum = torch.zeros_like(weights)
        self._window = torch.ones_like(weights)
        self._mean = torch.ones_like(weights)
        self._square = torch.ones_like(weights)
        self._noise = torch.empty_like(weights)

    def move(self, gradient: Tensor, *, adapt: bool) -> None:
        """One step, given the gradient [P] of the negative log posterior, estimated."""
        if adapt:
            self._adapt(gradient)
            self._scale = 1 / (self._square.sqrt() + _TINY)
            spread = 2 * _STEP**2 * _FRICTION * self._scale - _STEP**4
            self._spread = spread.clamp_min_(1e-16).sqrt_()
        self._noise.normal_(generator=self._generator)
        self._momentum.mul_(1 - _FRICTION)
        self._momentum.addcmul_(self._scale, gradient, value=-(_STEP**2))
        self._momentum.addcmul_(self._spread, self._noise)
        self._weights.add_(self._momentum)

    def _adapt(self, gradient: Tensor) -> None:
        """Equations 8 and 9: averages over a window that shrinks where the gradient is sure."""
        share = 1 / (self._window + 1)
        self._window.addcmul_(self._window, self._mean**2 / (self._square + _TINY), value=-1).add_(
            1
        )
        self._mean.addcmul_(share, gradient - self._mean)
        self._square.addcmul_(share, gradient**2 - self._square)


class _Gradient:
    """The gradient of the negative log posterior at weights that change in place.

    Written out: so small a network spends most of its time in autograd's own work.
    """

    def __init__(self, weights: Tensor, x: Tensor, y: Tensor) -> None:
        self._x, self._y, self._weights = x, y.unsqueeze(1), weights
        self._sum = torch.empty_like(weights)
        self._parts = _parts(weights, x.shape[1])
        self._gradients = _parts(self._sum, x.shape[1])

    def at(self, rows: Tensor) -> Tensor:
        """[P], with the likelihood of some rows standing for that of all."""
        first, first_bias, second, second_bias, last, last_bias, log_noise = self._parts
        x = self._x[rows]
        below = torch.addmm(first_bias, x, first).tanh_()
        above = torch.addmm(second_bias, below, second).tanh_()
        errors = torch.addmm(last_bias, above, last).sub_(self._y[rows])
        rows_each, sure = len(self._y) / len(rows), torch.exp(-log_noise)
        # Of the loss (e^2 / noise + log noise) / 2 a row, with respect to each layer's outputs.
        outer = errors * (sure * rows_each)
        middle = (outer @ last.T).mul_(1 - above.square())
        inner = (middle @ second.T).mul_(1 - below.square())
        deltas = ((x, inner), (below, middle), (above, outer))
        for place, (inputs, delta) in enumerate(deltas):
            torch.mm(inputs.T, delta, out=self._gradients[2 * place])
            torch.sum(delta, 0, keepdim=True, out=self._gradients[2 * place + 1])
        likelihood = (len(self._y) - rows_each * sure * errors.square().sum()) / 2
        self._gradients[-1].copy_(likelihood + (log_noise - _NOISE_MEAN) / _NOISE_VARIANCE)
        # The weights' normal prior has variance P.
        return self._sum.add_(self._weights, alpha=1 / len(self._weights))


def _shapes(inputs: int) -> list[tuple[int, ...]]:
    layers = [(inputs, _HIDDEN), (_HIDDEN, _HIDDEN), (_HIDDEN, 1)]
    return [shape for before, after in layers for shape in ((before, after), (1, after))] + [(1,)]


def _parts(weights: Tensor, inputs: int) -> list[Tensor]:
    """Views of weights [..., P]: matrix and bias of each layer, then the noise's log variance."""
    shapes = _shapes(inputs)
    pieces = torch.split(weights, [math.prod(shape) for shape in shapes], dim=-1)
    return [
        piece.view(*weights.shape[:-1], *shape) for piece, shape in zip(pieces, shapes, strict=True)
    ]


def _outputs(parts: list[Tensor], x: Tensor) -> Tensor:
    """[..., M, 1] of inputs [M, D], by networks [...]."""
    hidden = torch.tanh(x @ parts[0] + parts[1])
    hidden = torch.tanh(hidden @ parts[2] + parts[3])
    return hidden @ parts[4] + parts[5]


def _fresh(inputs: int, generator: torch.Generator) -> Tensor:
    """Weights [P], evenly drawn as torch's own layers are."""
    size = sum(math.prod(shape) for shape in _shapes(inputs))
    weights = 2 * torch.rand(size, generator=generator) - 1
    parts = _parts(weights, inputs)
    for matrix, bias in zip(parts[0:-1:2], parts[1:-1:2], strict=True):
        bound = 1 / math.sqrt(matrix.shape[0])
        matrix.mul_(bound)
        bias.mul_(bound)
    parts[-1].fill_(_FIRST_NOISE)
    return weights


def _scale(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation along the observations; a deviation of 0 counts as 1."""
    deviation = values.std(0, correction=0)
    return values.mean(0), torch.where(deviation > 0, deviation, torch.ones_like(deviation))
