"""Metrics of scored rows, exact, at any size, of all rows and of slices.

Nothing on the driver grows with the rows. A few jobs over the scored rows, so persist what is dear
to compute: their scale (`scale.py`); sums (`sums.py`); and for a binary label ranks
(`ranking.py`) and how sure their areas are (`jackknife.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.base.errors import DataRefused
from jobs.base.spark import side_by_side
from jobs.evaluate.measure.exact import value
from jobs.evaluate.measure.group import Group
from jobs.evaluate.measure.jackknife import (
    BLOCKS,
    Floats,
    from_totals,
    margin,
    replicates_of_ranking,
    replicates_of_sums,
)
from jobs.evaluate.measure.multiclass import with_own_score
from jobs.evaluate.measure.ranking import Curve, Ranking, rank
from jobs.evaluate.measure.scale import Scaling, scale_of
from jobs.evaluate.measure.sums import ALL, SCORE_EPSILON, Sums, sums_by_slice
from jobs.evaluate.predict.predict import PREDICTED_CLASS
from schemas.field import Task

# Metrics of a regression that are measured as its labels are.
_IN_LABELS = {"rmse", "mae", "mean_label", "mean_score"}


@dataclass(frozen=True)
class CalibrationBin:
    """Rows whose score lies in [low, high); means are weighted."""

    low: float
    high: float
    rows: int
    weight: float
    mean_score: float
    mean_label: float


@dataclass(frozen=True)
class Metrics:
    """What was measured on one selection of rows.

    Attributes:
        rows, weight: how many, and the sum of their weights.
        values: metric by name. Binary: auc, pr_auc, log_loss, brier, accuracy, f1, ece, base_rate,
            mean_score; where scores were not sorted, auc_error and no pr_auc. Regression: rmse,
            mae, r2, mean_label, mean_score. Multiclass: accuracy, log_loss. NaN where it is not
            defined.
        replicates: metric -> its values without each jackknife block, float64 [blocks].
        calibration: bins of equal width that hold rows.
        roc, pr, histogram: see `Ranking`; empty for regression.
        slices: the same of each group's rows; it has no slices itself.
    """

    task: Task
    rows: int
    weight: float
    values: dict[str, float]
    replicates: Mapping[str, Floats] = field(default_factory=dict, compare=False)
    calibration: tuple[CalibrationBin, ...] = ()
    roc: Curve = ()
    pr: Curve = ()
    histogram: Curve = ()
    slices: Mapping[Group, Metrics] = field(default_factory=dict)

    def margin(self, name: str, confidence: float = 0.95) -> float:
        """Half the width of a metric's interval; NaN where it is not known."""
        found = self.replicates.get(name)
        return math.nan if found is None else margin(found, confidence)


def measure(
    scored: DataFrame,
    task: Task,
    name: str,
    bins: int = 10,
    threshold: float = 0.5,
    exact: bool = True,
    is_weighted: bool = True,
) -> Metrics:
    """Measures scored rows.

    Args:
        scored: numeric columns score, label and weight; where there are such, `block`, from 0 to
            49, for intervals, and `slices`, the keys of a row's groups. With a multiclass label
            predicted_class and scores too.
        task: what the label is; binary labels are 0 or 1 and scores probabilities.
        name: of the rows, for errors: "split 'test' of 2013-01-01..2013-11-30".
        bins: of the calibration curve.
        threshold: a score from here on predicts label 1.
        exact: False measures the AUC without sorting, and says its error.
        is_weighted: False where all weights are 1.

    Raises:
        DataRefused: no rows, one class only, a missing or impossible score, label or weight.
    """
    blocks = BLOCKS if "block" in scored.columns else 1
    scale = scale_of(scored, task, name, is_weighted)
    rows = _by_slice(with_own_score(scored) if task == "multiclass" else scored, scale)
    sums = sums_by_slice(
        rows, task, name, bins=bins, blocks=blocks, threshold=threshold, centre=scale.centre
    )
    if task != "binary":
        measured = {slice_: _of_sums(of_slice, task, scale) for slice_, of_slice in sums.items()}
    else:
        _refuse_one_class(sums[ALL], name)
        with side_by_side(rows.sparkSession) as threads:
            ranked = threads.submit(rank, rows, exact)
            areas = replicates_of_ranking(rows, blocks) if blocks > 1 else {}
            rankings = ranked.result()
        measured = {
            slice_: _binary(of_slice, rankings.get(slice_), areas.get(slice_, {}), scale)
            for slice_, of_slice in sums.items()
        }
    whole = measured.pop(ALL)
    slices = {Group.of_key(key): of_group for key, of_group in measured.items()}
    return Metrics(**{**vars(whole), "slices": slices})


def _by_slice(scored: DataFrame, scale: Scaling) -> DataFrame:
    """A row for each slice of a scored row, and one for all rows together; scaled."""
    slices = F.col("slices") if "slices" in scored.columns else F.array().cast("array<string>")
    block = F.col("block") if "block" in scored.columns else F.lit(0)
    return scored.select(
        *((F.col(c).cast("double") * scale.of(c)).alias(c) for c in ("score", "label", "weight")),
        *(c for c in (PREDICTED_CLASS,) if c in scored.columns),
        block.alias("block"),
        F.explode(F.concat(F.array(F.lit(ALL)), slices)).alias("slice"),
    )


def _refuse_one_class(sums: Sums, name: str) -> None:
    positives, weight = sums.total("label"), sums.total("weight")
    if positives in (0, weight):
        label = 0 if positives == 0 else 1
        raise DataRefused(
            f"{name} has one class only: the label of all {sums.rows.sum()} rows is {label}",
            "rows of both classes",
            "measure on more dates or another split",
        )


def _values(sums: Sums, task: Task) -> dict[str, float]:
    """Metrics of the exact sums: whole numbers, divided once."""
    totals = {term: sums.total(term) for term in sums.limbs}
    return {name: float(found) for name, found in from_totals(totals, task).items()}


def _of_sums(sums: Sums, task: Task, scale: Scaling) -> Metrics:
    values, replicates = _values(sums, task), replicates_of_sums(sums, task)
    for name in _IN_LABELS & values.keys():
        values[name] /= scale.number
        replicates[name] = replicates[name] / scale.number
    weight = value(sums.total("weight")) / scale.weight
    return Metrics(task, int(sums.rows.sum()), weight, values, replicates)


def _binary(
    sums: Sums, ranking: Ranking | None, areas: Mapping[str, Floats], scale: Scaling
) -> Metrics:
    weight = value(sums.total("weight")) / scale.weight
    calibration = _calibration(sums, scale)
    gaps = math.fsum(b.weight * abs(b.mean_score - b.mean_label) for b in calibration)
    return Metrics(
        "binary",
        int(sums.rows.sum()),
        weight,
        {**_areas(ranking), **_values(sums, "binary"), "ece": gaps / weight},
        {**replicates_of_sums(sums, "binary"), **areas},
        calibration,
        ranking.roc if ranking else (),
        ranking.pr if ranking else (),
        ranking.histogram if ranking else (),
    )


def _areas(ranking: Ranking | None) -> dict[str, float]:
    if ranking is None:
        return {"auc": math.nan, "pr_auc": math.nan}
    if ranking.pr_auc is None:
        return {"auc": ranking.auc, "auc_error": ranking.auc_error}
    return {"auc": ranking.auc, "pr_auc": ranking.pr_auc}


def _calibration(sums: Sums, scale: Scaling) -> tuple[CalibrationBin, ...]:
    bins = len(sums.rows)
    weights, scores, labels = (sums.by_bin(term) for term in ("weight", "score", "label"))
    return tuple(
        CalibrationBin(
            low=bin_ / bins,
            high=(bin_ + 1) / bins,
            rows=int(sums.rows[bin_]),
            weight=value(weights[bin_]) / scale.weight,
            mean_score=scores[bin_] / weights[bin_],
            mean_label=labels[bin_] / weights[bin_],
        )
        for bin_ in range(bins)
        if sums.rows[bin_]
    )


__all__ = ["SCORE_EPSILON", "CalibrationBin", "Metrics", "Task", "measure"]
