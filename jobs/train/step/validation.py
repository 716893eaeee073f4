"""Validation by all ranks, from sums over their rows, so that the number of ranks changes nothing.

The area under the ROC curve (AUC) is computed from a histogram of the logits, with 65,536 bins of
equal width over [-16, 16]. Logits order rows as scores do, and tell rare events apart whose scores
are all near 0. Rows of one bin count as ties. The error of the area is therefore at most half the
sum over the bins of (share of the positives) * (share of the negatives): `auc_error`, usually below
1e-5. Evaluation measures the exact area (`jobs/evaluate/measure/ranking.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jobs.batch.batch import Batch
from jobs.models.build import Model, row_losses
from jobs.train.exchange.exchange import Exchange
from jobs.train.exchange.ordered import PartialSums
from jobs.train.order.slices import Slices
from jobs.train.step.buffers import Buffers
from jobs.train.step.finite import Diverged
from jobs.train.step.parts import cut

NUM_BINS = 65_536
LARGEST_LOGIT = 16.0


@dataclass(frozen=True)
class Validation:
    """The measurements of all validation rows.

    Attributes:
        loss: weighted mean of the rows' losses.
        auc: NaN where the task is not binary, and where the rows have one class only.
        auc_error: bound on the error of `auc`.
        weight: sum of the rows' weights.
    """

    loss: float
    auc: float
    auc_error: float
    weight: float


def validate(
    model: Model,
    device: torch.device,
    batches: Iterable[Batch],
    exchange: Exchange,
    fetch: Callable[[Sequence[Batch]], None] = lambda _: None,
    slices: Slices | None = None,
) -> Validation:
    """Measures the model on the rows of all ranks, which must all call this.

    Args:
        device: the model's.
        batches: this rank's pieces.
        fetch: called before each one, also where it is padding; see `Tables.fetch`.
        slices: this rank's, where batches are measured slice by slice.

    Raises:
        Diverged: the loss is not finite.
        ConfigError: the forward pass changes a buffer of the model.
    """
    # For each slice [2 + 2 * NUM_BINS]: loss, weight, weight of the negatives by bin, weight of the
    # positives by bin.
    count = len(slices.owned) if slices is not None else 1
    sums = torch.zeros(count, 2 + 2 * NUM_BINS, dtype=torch.float64, device=device)
    model.eval()
    with Buffers(model).unchanged(), torch.inference_mode():
        for batch in batches:
            parts = cut(batch, slices)
            fetch(parts)
            for own, part in zip(sums, parts, strict=True):
                if part.rows:
                    _add(own, part.to(device), model)
    model.train()
    partial_sums = PartialSums(exchange, slices)
    for own in sums:
        partial_sums.add([own])
    (total,) = partial_sums.start().result()
    loss, weight = total[:2].tolist()
    if not math.isfinite(loss) or weight <= 0:
        raise Diverged(
            f"the validation loss over rows of weight {weight:g} is {loss}",
            "a finite loss",
            "lower train.learning_rate, or look for absurd values in the inputs",
        )
    negatives, positives = total[2:].view(2, NUM_BINS)
    auc, auc_error = area(negatives, positives)
    return Validation(loss / weight, auc, auc_error, weight)


def _add(sums: Tensor, batch: Batch, model: Model) -> None:
    """Adds a batch to the sums [2 + 2 * NUM_BINS]."""
    logits, weight = model(batch), batch.weight.double()
    loss = (row_losses(logits, batch, model.task).double() * weight).sum()
    sums[0] += loss
    sums[1] += weight.sum()
    if model.task == "binary":
        cells = bins(logits) + NUM_BINS * (batch.label > 0.5).long()
        sums[2:] += torch.bincount(cells, weight, 2 * NUM_BINS)


def bins(logits: Tensor) -> Tensor:
    """The bin of each logit, int64; the outermost bins also have the logits beyond them."""
    share = (logits.double().nan_to_num() + LARGEST_LOGIT) / (2 * LARGEST_LOGIT)
    return (share * NUM_BINS).floor().clamp(0, NUM_BINS - 1).long()


def area(negatives: Tensor, positives: Tensor) -> tuple[float, float]:
    """The area under the ROC curve, and the bound on its error; NaN where a class has no weight.

    Args:
        negatives, positives: [NUM_BINS], weight of the class by bin, in order of the logit.
    """
    pairs = float(negatives.sum() * positives.sum())
    if pairs == 0:
        return math.nan, math.nan
    ties = float((negatives * positives).sum()) / 2
    below = negatives.cumsum(0) - negatives
    # Rounding can take the area of a perfect order above 1.
    return min(1.0, (float((positives * below).sum()) + ties) / pairs), ties / pairs
