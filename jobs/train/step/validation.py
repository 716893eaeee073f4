"""Validation over the ranks: sums and counts that merge, so that their number changes nothing.

The area under the ROC curve comes from weights by bin of the logit: 65,536 bins of equal width
over [-16, 16]. Logits order rows as scores do, and resolve rare events that scores squeeze
together near 0. TableRows of one bin count as ties, so the area is off by at most half the sum over
the bins of (positives' share) * (negatives' share): `auc_error`, usually below 1e-5. Evaluation
measures the exact area (`jobs/evaluate/measure/ranking.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from jobs.batch.batch import Batch
from jobs.models.build import Model, row_losses
from jobs.train.exchange.exchange import Exchange
from jobs.train.step.step import Diverged

NUM_BINS = 65_536
LARGEST_LOGIT = 16.0


@dataclass(frozen=True)
class Validation:
    """What all ranks together measured.

    Attributes:
        loss: weighted mean.
        auc: NaN for regression, and where the rows have one class only.
        auc_error: bound on the error of `auc`.
        weight: of the rows.
    """

    loss: float
    auc: float
    auc_error: float
    weight: float


def validate(model: Model, batches: Iterable[Batch], exchange: Exchange) -> Validation:
    """Measures the model on this rank's pieces and adds up over the ranks.

    Raises:
        Diverged: the loss is not finite.
    """
    device = next(model.parameters()).device
    # Row 0: loss and weight; then the weight of negatives and of positives by bin.
    sums = torch.zeros(2 + 2 * NUM_BINS, dtype=torch.float64, device=device)
    model.eval()
    with torch.inference_mode():
        for batch in batches:
            if batch.rows:
                _add(sums, batch.to(device), model)
    model.train()
    (total,) = exchange.start_sums([sums])()
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
    logits, weight = model(batch), batch.weight.double()
    loss = (row_losses(logits, batch, model.task).double() * weight).sum()
    sums[0] += loss
    sums[1] += weight.sum()
    if model.task == "binary":
        cells = bins(logits) + NUM_BINS * (batch.label > 0.5).long()
        sums[2:] += torch.bincount(cells, weight, 2 * NUM_BINS)


def bins(logits: Tensor) -> Tensor:
    """Number of each logit's bin, int64; the last ones hold what lies beyond."""
    share = (logits.double().nan_to_num() + LARGEST_LOGIT) / (2 * LARGEST_LOGIT)
    return (share * NUM_BINS).floor().clamp(0, NUM_BINS - 1).long()


def area(negatives: Tensor, positives: Tensor) -> tuple[float, float]:
    """Area under the ROC curve of weights by rising bin, and the bound on its error."""
    pairs = float(negatives.sum() * positives.sum())
    if pairs == 0:
        return math.nan, math.nan
    ties = float((negatives * positives).sum()) / 2
    below = negatives.cumsum(0) - negatives
    # Rounded sums of a perfect order can end a bit above it.
    return min(1.0, (float((positives * below).sum()) + ties) / pairs), ties / pairs
