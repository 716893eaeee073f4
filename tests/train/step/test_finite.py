"""A gradient that is not finite ends all ranks before it reaches a weight."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from jobs.train.exchange.exchange import Alone, Exchange
from jobs.train.step.finite import Diverged, measured
from jobs.train.step.step import Step
from tests.builders.batches import batch_of, in_ranks, pieces_of
from tests.builders.reference import fresh_model, settings_of, weights_of

DENSE, TABLE = "net.deep.mlp.0.weight", "net.deep.embeddings.tables.0.weight"


class Spoils(torch.autograd.Function):
    """The identity, whose gradient has one value that is no number."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, bad: float) -> Tensor:
        ctx.bad = bad
        return values.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        gradient = gradient.clone()
        gradient.view(-1)[0] = ctx.bad
        return gradient, None


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("of_table", [False, True], ids=["dense", "table"])
@pytest.mark.parametrize(
    "changes", [{}, {"clip_norm": 0.5}, {"wire_dtype": "float16"}], ids=["plain", "clip", "wire"]
)
def test_a_gradient_that_is_no_number_ends_all_ranks(
    changes: dict[str, Any], of_table: bool, bad: float
) -> None:
    """The loss is finite; the gradient of one rank is not."""
    model = fresh_model()
    name = TABLE if of_table else DENSE

    def work(exchange: Exchange) -> str:
        own = copy.deepcopy(model)
        place, _, _ = name.rpartition(".")
        if exchange.rank == 1:
            # The gradient of a module's output reaches its weights.
            module = own.get_submodule(place)
            module.register_forward_hook(lambda _, __, output: Spoils.apply(output, bad))
        step = Step(own, settings_of(**changes), exchange)
        before = {n: w.clone() for n, w in weights_of(own).items()}
        with pytest.raises(Diverged, match="gradient") as raised:
            step.run(pieces_of(batch_of(64, seed=1), 2)[exchange.rank])
        assert all(torch.equal(before[n], w) for n, w in weights_of(own).items())
        return str(raised.value)

    first, second = in_ranks(work, 2)
    assert first == second, "ranks say the same"
    assert name in first or "norm" in first


def test_finite_values_that_add_up_to_infinity_are_none() -> None:
    most = torch.finfo(torch.float32).max
    found = measured(torch.ones(2), {"w": torch.full((4,), most)}, with_norm=False)
    assert (found.loss, found.weight, found.norm) == (1.0, 1.0, None)
    with pytest.raises(Diverged, match=r"the gradient of w is not finite"):
        measured(torch.ones(2), {"w": torch.tensor([1.0, -math.inf, math.inf])}, with_norm=False)


def test_a_norm_beyond_all_numbers_limits_nothing_to_zero() -> None:
    """Divided by infinity the gradient would be 0, and training would stand still unseen."""
    step = Step(fresh_model(), settings_of(clip_norm=1.0), Alone())
    batch = batch_of(64, seed=1)
    batch.weight[:] = 1e35
    with pytest.raises(Diverged, match=r"norm is inf"):
        step.run(batch)
