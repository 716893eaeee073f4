"""Whether the loss and the gradient of a step are numbers, told by what they add up to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from jobs.base.errors import MillstreamError


class Diverged(MillstreamError):
    """The loss or the gradient is not finite. It is the same on all ranks, so that all stop."""


@dataclass(frozen=True)
class Measured:
    """What a step's exchange added up.

    Attributes:
        loss: the sum of the weighted losses.
        weight: the sum of the weights.
        norm: of all gradients together; None where it was not asked for.
    """

    loss: float
    weight: float
    norm: float | None


def measured(
    loss_and_weight: Tensor,
    gradients: Mapping[str, Tensor],
    with_norm: bool,
    sizes: Mapping[str, Tensor] | None = None,
    squares: Tensor | None = None,
) -> Measured:
    """Measures what all ranks added up.

    A value that is not finite makes the sum of all values, or their norm, not finite. So the
    gradient is read once more only where its norm is not asked for, and the sum takes a third of
    the time in which it is divided by the weight.

    Args:
        loss_and_weight: [2].
        gradients: by the parameter's name, of the summed loss.
        with_norm: whether the norm is needed.
        sizes: of the gradients of sharded tables, by name: a number that is finite if they are.
        squares: the sum of all squares of these gradients, if the norm is needed.

    Raises:
        Diverged: the loss or the gradient is not finite.
    """
    values = list(gradients.values())
    if with_norm:
        total = torch.nn.utils.get_total_norm(values)
        if squares is not None:
            total = total.double().square().add(squares).sqrt()
    else:
        total = torch.stack([value.sum() for value in values or [loss_and_weight]]).sum()
    sizes = sizes or {}
    for own in sizes.values():
        # Adds nothing to the norm, but makes it no number where the size is none.
        total = total + own * 0
    # Together, because asking a GPU waits for all of its work.
    numbers = torch.cat([loss_and_weight, total.to(loss_and_weight.dtype).view(1)])
    loss, weight, size = numbers.tolist()
    if not math.isfinite(loss) or weight <= 0:
        raise Diverged(
            f"the loss of a batch of weight {weight:g} is {loss}",
            "a finite loss",
            "lower train.learning_rate, or look for absurd values in the inputs",
        )
    if not math.isfinite(size):
        _refuse({**gradients, **sizes}, size if with_norm else None)
    return Measured(loss, weight, size if with_norm else None)


def _refuse(gradients: Mapping[str, Tensor], norm: float | None) -> None:
    """Names the parameters whose gradients are not finite. Finite ones may add up to infinity."""
    bad = [name for name, gradient in gradients.items() if not gradient.isfinite().all()]
    if not bad and norm is None:
        return
    raise Diverged(
        f"the gradient of {', '.join(bad[:3])} is not finite"
        if bad
        else f"the gradient's norm is {norm}, so it cannot be limited to train.clip_norm",
        "finite gradients",
        "lower train.learning_rate; look for square roots, logarithms and quotients in the model, "
        "and for absurd values in the inputs",
    )
