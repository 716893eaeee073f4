"""Powers of two that bring weights and a regression's numbers to where exact sums keep digits.

Multiplying by them changes no digit, metrics are ratios in which they cancel out or are taken out
again, and no sum can be too large.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from jobs.base.errors import DataRefused
from schemas.field import Task

# The largest weight is brought to 2^10 .. 2^11, the largest label or score to 2^5 .. 2^6: a squared
# error times its weight is then below 2^25, which many rows may add up to 2^62.
_WEIGHT_BITS, _NUMBER_BITS = 11, 6
# Of lighter rows, beside heavy ones, sums would keep few digits or none.
_MOST_APART = 2.0**50


@dataclass(frozen=True)
class Scaling:
    """What weights, and the scores and labels of a regression, are multiplied with.

    Attributes:
        centre: half way between the least and the greatest label, multiplied. The spread of labels
            is told from there, as squares of numbers far from 0 lose it.
    """

    weight: float = 1.0
    number: float = 1.0
    centre: float = 0.0

    def of(self, name: str) -> float:
        """For the column of this name."""
        return self.weight if name == "weight" else self.number


def scale_of(scored: DataFrame, task: Task, name: str, is_weighted: bool) -> Scaling:
    """The scale of scored rows; what is no number, or no weight above 0, does not count.

    Args:
        is_weighted: False where all weights are 1, which no job need find out.

    Raises:
        DataRefused: the weights are too far apart.
    """
    if not is_weighted and task != "regression":
        return Scaling(_power(1.0, _WEIGHT_BITS))
    weight, label, score = (F.col(c).cast("double") for c in ("weight", "label", "score"))
    of_weight, of_label = _finite(weight, weight > 0), _finite(label)
    found = scored.agg(
        F.min(of_weight),
        F.max(of_weight),
        F.min(of_label),
        F.max(of_label),
        F.max(_finite(F.abs(score))),
    ).first()
    least, heaviest, low, high, score_size = (value or 0.0 for value in found or (0.0,) * 5)
    if least * _MOST_APART < heaviest:
        raise DataRefused(
            f"{name}: weights from {least:g} to {heaviest:g} are too far apart",
            f"the largest at most {_MOST_APART:.3g} times the least",
            "let the declaration refuse rows of almost no weight, or give them more",
        )
    scale = Scaling(_power(heaviest, _WEIGHT_BITS))
    if task != "regression":
        return scale
    number = _power(max(-low, high, score_size), _NUMBER_BITS)
    return Scaling(scale.weight, number, (low / 2 + high / 2) * number)


def _finite(value: Column, where: Column | None = None) -> Column:
    finite = F.abs(value) < F.lit(math.inf)
    return F.when(finite if where is None else finite & where, value)


def _power(largest: float, bits: int) -> float:
    """The power of two that brings a number to 2^(bits - 1) .. 2^bits."""
    return 2.0 ** min(bits - math.frexp(largest)[1], 1_000) if largest else 1.0
