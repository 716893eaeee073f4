"""Metrics of scored rows, exact, at any size: nothing on the driver grows with the rows.

Two jobs over the scored rows, so persist what is dear to compute. The first sums, by bin of the
calibration curve; the second, for a binary label, ranks (`ranking.py`). All sums are exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pyspark.sql import Column, DataFrame, Row
from pyspark.sql import functions as F

from jobs.errors import DataRefused
from jobs.evaluate.exact import LARGEST_SUM, MOST_ROWS, exact_sum, units, value
from jobs.evaluate.ranking import rank

Task = Literal["binary", "regression"]

# Scores are float32: log loss sees them no nearer to 0 and 1 than float32's own step at 1.
SCORE_EPSILON = float(np.finfo(np.float32).eps)


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
        values: metric by name. Binary: auc, log_loss, brier, accuracy (at 0.5), ece, base_rate,
            mean_score. Regression: rmse, mae, mean_label, mean_score.
        calibration: bins of equal width that hold rows.
        roc, histogram: see `Ranking`; empty for regression.
    """

    task: Task
    rows: int
    weight: float
    values: dict[str, float]
    calibration: tuple[CalibrationBin, ...] = ()
    roc: tuple[tuple[float, float], ...] = ()
    histogram: tuple[tuple[float, float], ...] = ()


def measure(scored: DataFrame, task: Task, name: str, bins: int = 10) -> Metrics:
    """Measures scored rows.

    Args:
        scored: numeric columns score, label and weight.
        task: what the label is; binary labels are 0 or 1 and scores probabilities.
        name: of the rows, for errors: "split 'test' of 2013-01-01..2013-11-30".
        bins: of the calibration curve.

    Raises:
        DataRefused: no rows, one class only, a missing or impossible score, label or weight.
    """
    rows = scored.select(*(F.col(c).cast("double").alias(c) for c in ("score", "label", "weight")))
    sums = _sums(rows, task, name, bins)
    return _regression(sums) if task == "regression" else _binary(rows, sums, name, bins)


# The first job: sums, by bin of the calibration curve


@dataclass(frozen=True)
class _Sums:
    rows: int
    totals: dict[str, int]
    bins: tuple[Row, ...]

    def mean(self, name: str) -> float:
        return self.totals[name] / self.totals["weight"]


def _terms(task: Task) -> dict[str, Column]:
    score, label, weight = F.col("score"), F.col("label"), F.col("weight")
    error = score - label
    terms = {"weight": weight, "score": weight * score, "label": weight * label}
    terms["squared"] = weight * error * error
    if task == "regression":
        return {**terms, "absolute": weight * F.abs(error)}
    clipped = F.least(F.greatest(score, F.lit(SCORE_EPSILON)), F.lit(1 - SCORE_EPSILON))
    loss = -F.log(F.when(label == 1, clipped).otherwise(1 - clipped))
    right = (score >= 0.5) == (label == 1)
    return {**terms, "loss": weight * loss, "right": F.when(right, weight).otherwise(0.0)}


def _sums(rows: DataFrame, task: Task, name: str, bins: int) -> _Sums:
    terms = _terms(task)
    bin_ = (
        F.lit(0)
        if task == "regression"
        else F.least(F.floor(F.col("score") * bins), F.lit(bins - 1))
    )
    bad = {problem: F.count_if(condition) for problem, condition in _problems(task).items()}
    found = (
        rows.groupBy(bin_.alias("bin"))
        .agg(
            F.count("*").alias("rows"),
            *(column.alias(problem) for problem, column in bad.items()),
            *(exact_sum(term).alias(f"sum_{key}") for key, term in terms.items()),
        )
        .collect()
    )
    if not found:
        raise DataRefused(f"{name} has no rows", "at least one row to measure")
    for problem in bad:
        if count := sum(row[problem] for row in found):
            raise DataRefused(f"{name}: {count} rows have {problem}", _EXPECTED[task])
    total_rows = sum(row["rows"] for row in found)
    for key in terms:
        _refuse_overflow(name, key, [row[f"sum_{key}"] for row in found], total_rows)
    totals = {key: sum(units(row[f"sum_{key}"]) for row in found) for key in terms}
    return _Sums(total_rows, totals, tuple(sorted(found, key=lambda row: int(row["bin"]))))


_EXPECTED = {
    "binary": "scores in [0, 1], labels 0 or 1, weights finite and above 0",
    "regression": "finite scores and labels, weights finite and above 0",
}


def _problems(task: Task) -> dict[str, Column]:
    """What makes a row impossible to measure. NaN is greater than any number in Spark."""
    score, label, weight = F.col("score"), F.col("label"), F.col("weight")
    infinity = F.lit(float("inf"))
    finite_score = score.isNotNull() & (F.abs(score) < infinity)
    finite_label = label.isNotNull() & (F.abs(label) < infinity)
    known_weight = weight.isNotNull() & (weight > 0) & (weight < infinity)
    problems = {
        "no finite score": ~finite_score,
        "no finite label": ~finite_label,
        "no weight above 0": ~known_weight,
    }
    if task == "binary":
        problems["a score outside [0, 1]"] = finite_score & ~score.between(0.0, 1.0)
        problems["a label other than 0 and 1"] = finite_label & ~label.isin(0.0, 1.0)
    return problems


def _refuse_overflow(name: str, term: str, limbs: Sequence[Row], rows: int) -> None:
    largest = max(part["largest"] for part in limbs)
    if largest * rows >= LARGEST_SUM or rows >= MOST_ROWS:
        raise DataRefused(
            f"{name}: the sum of {term} over {rows} rows, up to {largest:g} each, is too large",
            f"sums below {LARGEST_SUM:g} and fewer than {MOST_ROWS} rows",
            "scale the label or the weights",
        )


def _regression(sums: _Sums) -> Metrics:
    values = {
        "rmse": math.sqrt(sums.mean("squared")),
        "mae": sums.mean("absolute"),
        "mean_label": sums.mean("label"),
        "mean_score": sums.mean("score"),
    }
    return Metrics("regression", sums.rows, value(sums.totals["weight"]), values)


def _binary(rows: DataFrame, sums: _Sums, name: str, bins: int) -> Metrics:
    weight = value(sums.totals["weight"])
    positives = sums.totals["label"]
    negatives = sums.totals["weight"] - positives
    if positives == 0 or negatives == 0:
        label = 0 if positives == 0 else 1
        raise DataRefused(
            f"{name} has one class only: the label of all {sums.rows} rows is {label}",
            "rows of both classes",
            "measure on more dates or another split",
        )
    calibration = _calibration(sums, bins)
    ranking = rank(rows, positives, negatives)
    values = {
        "auc": ranking.auc,
        "log_loss": sums.mean("loss"),
        "brier": sums.mean("squared"),
        "accuracy": sums.mean("right"),
        "ece": math.fsum(b.weight * abs(b.mean_score - b.mean_label) for b in calibration) / weight,
        "base_rate": sums.mean("label"),
        "mean_score": sums.mean("score"),
    }
    return Metrics("binary", sums.rows, weight, values, calibration, ranking.roc, ranking.histogram)


def _calibration(sums: _Sums, bins: int) -> tuple[CalibrationBin, ...]:
    def of_bin(row: Row) -> CalibrationBin:
        weight = units(row["sum_weight"])
        return CalibrationBin(
            low=row["bin"] / bins,
            high=(row["bin"] + 1) / bins,
            rows=row["rows"],
            weight=value(weight),
            mean_score=units(row["sum_score"]) / weight,
            mean_label=units(row["sum_label"]) / weight,
        )

    return tuple(of_bin(row) for row in sums.bins)
