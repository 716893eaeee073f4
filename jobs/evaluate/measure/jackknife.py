"""How sure a metric is: the delete-one-block jackknife over hash blocks of the entity key.

A metric is computed again without the rows of each block; how much that moves it tells its
standard error (Efron and Stein, 1981; blocks, as rows of one entity are not independent). Blocks
are the same for two models on the same rows, so the error of their difference is that of the
differences block by block.

The areas under the curves are computed again from score counts in 256 bins: that shifts the
replicates all alike, and hardly changes how they differ.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.evaluate.measure.exact import exact_sum, floats, limbs_of
from jobs.evaluate.measure.sums import SCORE_EPSILON, Sums
from schemas.field import Task

Floats = npt.NDArray[np.float64]
Replicates = Mapping[str, Floats]

BLOCKS = 50
_BINS = 256
_LARGEST_LOGIT = math.log((1 - SCORE_EPSILON) / SCORE_EPSILON)


def replicates_of_sums(sums: Sums, task: Task) -> dict[str, Floats]:
    """Metrics without each block, [blocks], that follow from sums alone."""
    bins = {term: sums.without_each_block(term) for term in sums.limbs}
    with np.errstate(divide="ignore", invalid="ignore"):
        values = from_totals({term: of_bin.sum(axis=1) for term, of_bin in bins.items()}, task)
        if task == "binary":
            gaps = np.abs(bins["score"] - bins["label"]).sum(axis=1)
            values["ece"] = gaps / bins["weight"].sum(axis=1)
    return values


def from_totals(sums: Mapping[str, Any], task: Task) -> dict[str, Any]:
    """Metrics that are ratios of sums: of whole numbers, or of arrays elementwise."""
    weight = sums["weight"]
    if task == "multiclass":
        return {
            "accuracy": _divided(sums["right"], weight),
            "log_loss": _divided(sums["loss"], weight),
        }
    score, label = sums["score"], sums["label"]
    values = {"mean_score": _divided(score, weight)}
    if task == "regression":
        deviation = sums["deviation"]
        spread = sums["deviation_squared"] * weight - deviation * deviation
        return {
            "rmse": np.sqrt(_divided(sums["squared"], weight)),
            "mae": _divided(sums["absolute"], weight),
            "r2": 1 - _divided(sums["squared"] * weight, spread),
            "mean_label": _divided(label, weight),
            **values,
        }
    return {
        "log_loss": _divided(sums["loss"], weight),
        "brier": _divided(sums["squared"], weight),
        "accuracy": _divided(sums["right"], weight),
        "f1": _divided(2 * sums["true_positive"], sums["positive"] + label),
        "base_rate": _divided(label, weight),
        **values,
    }


def _divided(a: Any, b: Any) -> Any:
    """The nearest float where both are whole numbers; NaN for a division by zero."""
    return math.nan if isinstance(b, int) and b == 0 else a / b


def replicates_of_ranking(rows: DataFrame, blocks: int) -> dict[str, dict[str, Floats]]:
    """The areas under the curves without each block, [blocks], by slice and metric.

    Args:
        rows: `slice`, `block`; doubles score, label and weight.
    """
    clipped = F.least(F.greatest(F.col("score"), F.lit(SCORE_EPSILON)), F.lit(1 - SCORE_EPSILON))
    logit = F.log(clipped / (1 - clipped)) / _LARGEST_LOGIT
    bin_ = F.least(F.floor((logit + 1) / 2 * _BINS), F.lit(_BINS - 1)).cast("int")
    positive, weight = F.col("label") == 1, F.col("weight")
    found = (
        rows.groupBy("slice", "block", bin_.alias("bin"))
        .agg(
            exact_sum(F.when(positive, weight).otherwise(0.0)).alias("positives"),
            exact_sum(F.when(positive, 0.0).otherwise(weight)).alias("negatives"),
        )
        .toArrow()
    )
    replicates = {}
    for slice_ in found["slice"].unique().to_pylist():
        part = found.filter(pc.equal(found["slice"], slice_))
        places = part["block"].to_numpy(), part["bin"].to_numpy()
        counts = {}
        for name in ("positives", "negatives"):
            limbs = np.zeros((blocks, _BINS, 3), np.int64)
            limbs[places] = limbs_of(part, name)
            counts[name] = floats(limbs.sum(axis=0) - limbs)
        replicates[slice_] = _areas(counts["positives"], counts["negatives"])
    return replicates


def _areas(positives: Floats, negatives: Floats) -> dict[str, Floats]:
    """The areas of each line of counts, [blocks, bins], scores rising."""
    all_positives = positives.sum(axis=1, keepdims=True)
    all_negatives = negatives.sum(axis=1, keepdims=True)
    below = np.cumsum(negatives, axis=1) - negatives / 2
    right = all_positives - np.cumsum(positives, axis=1) + positives
    wrong = all_negatives - np.cumsum(negatives, axis=1) + negatives
    with np.errstate(divide="ignore", invalid="ignore"):
        auc = (positives * below).sum(axis=1, keepdims=True) / (all_positives * all_negatives)
        precision = np.where(positives > 0, right / (right + wrong), 0.0)
        pr_auc = (positives * precision).sum(axis=1, keepdims=True) / all_positives
    return {"auc": auc[:, 0], "pr_auc": pr_auc[:, 0]}


def standard_error(replicates: Floats) -> float:
    """Of a metric, or of a difference of metrics, from its values without each block."""
    blocks = len(replicates)
    if blocks < 2:
        return math.nan
    return float(math.sqrt((blocks - 1) * np.var(replicates)))


def margin(replicates: Floats, confidence: float) -> float:
    """Half the width of the interval that holds the true value with this confidence."""
    return NormalDist().inv_cdf((1 + confidence) / 2) * standard_error(replicates)
