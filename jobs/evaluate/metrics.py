"""Metrics of scored rows, exact, at any size: nothing on the driver grows with the rows.

Two jobs over the scored rows, so persist what is dear to compute. The first sums; the second,
for a binary label, shuffles the scores once, by blocks of neighbouring scores, and sorts within
blocks. The driver sees at most a few ten thousand block totals.

Every sum is exact and hence the same in any order: a term is cut into three whole numbers of
28 bits each below the point (`_exact_sum`). Decimals would do as well, but took 35 s where this
takes 5 s (six sums over 10 M rows on 2 cores).

A task gets whole blocks: where most rows share one score, one task sorts them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Literal

import numpy as np
from pyspark.sql import Column, DataFrame, Row, Window
from pyspark.sql import functions as F

from jobs.errors import DataRefused

Task = Literal["binary", "regression"]

# Scores are float32: log loss sees them no nearer to 0 and 1 than float32's own step at 1.
SCORE_EPSILON = float(np.finfo(np.float32).eps)

LIMBS = ("high", "middle", "low")
LIMB_BITS = 28
UNIT = 2 ** (2 * LIMB_BITS)
# Blocks of neighbouring scores: width 2^-14, and 2^-21 below 2^-7, where rare events are scored.
BLOCK_BITS, LOW_BITS = 14, 7
# Terms of the AUC are at most 1; scaled up so that the three limbs keep bits down to 2^-92.
AREA_SCALE = 2.0**36
CURVE_POINTS = 200
HISTOGRAM_BINS = 32


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
        roc: (false, true) positive rate, at most CURVE_POINTS + 2 points.
        histogram: (negatives', positives') share of weight by score, HISTOGRAM_BINS bins.
    """

    task: Task
    rows: int
    weight: float
    values: dict[str, float]
    calibration: tuple[CalibrationBin, ...] = ()
    roc: tuple[tuple[float, float], ...] = ()
    histogram: tuple[tuple[float, float], ...] = field(default=())


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


# Exact sums


def _exact_sum(term: Column) -> Column:
    """The exact sum of a term cut at 2^-56: three sums of whole numbers, and the largest term."""
    base = float(2**LIMB_BITS)
    high = F.floor(term)
    rest = (term - high) * base
    middle = F.floor(rest)
    low = F.floor((rest - middle) * base)
    return F.struct(
        F.sum(high).alias("high"),
        F.sum(middle).alias("middle"),
        F.sum(low).alias("low"),
        F.max(F.abs(term)).alias("largest"),
    )


def _units(limbs: Row) -> int:
    """A sum in units of 2^-56."""
    return int((limbs["high"] << 2 * LIMB_BITS) + (limbs["middle"] << LIMB_BITS) + limbs["low"])


def _value(units: int) -> float:
    """The float nearest to a sum in units of 2^-56."""
    return float(units / UNIT)


def _as_double(limbs: str) -> Column:
    """A sum as a double, inside Spark; the same for the same limbs."""
    base = float(2**-LIMB_BITS)
    high, middle, low = (F.col(f"{limbs}.{limb}").cast("double") for limb in LIMBS)
    return high + (middle + low * base) * base


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
            *(_exact_sum(term).alias(f"sum_{key}") for key, term in terms.items()),
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
    totals = {key: sum(_units(row[f"sum_{key}"]) for row in found) for key in terms}
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
    if largest * rows >= 2**62 or rows >= 2 ** (62 - LIMB_BITS):
        raise DataRefused(
            f"{name}: the sum of {term} over {rows} rows, up to {largest:g} each, is too large",
            f"sums below {2.0**62:g} and fewer than {2 ** (62 - LIMB_BITS)} rows",
            "scale the label or the weights",
        )


def _regression(sums: _Sums) -> Metrics:
    values = {
        "rmse": math.sqrt(sums.mean("squared")),
        "mae": sums.mean("absolute"),
        "mean_label": sums.mean("label"),
        "mean_score": sums.mean("score"),
    }
    return Metrics("regression", sums.rows, _value(sums.totals["weight"]), values)


# The second job: the ROC curve and the area under it


def _binary(rows: DataFrame, sums: _Sums, name: str, bins: int) -> Metrics:
    weight = _value(sums.totals["weight"])
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
    blocks = _blocks(rows, positives, negatives)
    values = {
        "auc": _area(blocks, positives, negatives),
        "log_loss": sums.mean("loss"),
        "brier": sums.mean("squared"),
        "accuracy": sums.mean("right"),
        "ece": math.fsum(b.weight * abs(b.mean_score - b.mean_label) for b in calibration) / weight,
        "base_rate": sums.mean("label"),
        "mean_score": sums.mean("score"),
    }
    roc = tuple(_roc(blocks))
    return Metrics("binary", sums.rows, weight, values, calibration, roc, _histogram(blocks))


def _calibration(sums: _Sums, bins: int) -> tuple[CalibrationBin, ...]:
    def of_bin(row: Row) -> CalibrationBin:
        weight = _units(row["sum_weight"])
        return CalibrationBin(
            low=row["bin"] / bins,
            high=(row["bin"] + 1) / bins,
            rows=row["rows"],
            weight=_value(weight),
            mean_score=_units(row["sum_score"]) / weight,
            mean_label=_units(row["sum_label"]) / weight,
        )

    return tuple(of_bin(row) for row in sums.bins)


@dataclass(frozen=True)
class _Block:
    """Totals of one block of neighbouring scores, in units of 2^-56."""

    low_score: float
    positives: int
    negatives: int
    area: int


def _block_of(score: Column) -> Column:
    """Number of the score's block; never falls as the score rises."""
    fine = F.floor(score * 2.0 ** (BLOCK_BITS + LOW_BITS))
    coarse = 2**BLOCK_BITS + F.floor(score * 2.0**BLOCK_BITS)
    return F.when(score < 2.0**-LOW_BITS, fine).otherwise(coarse)


def _low_score(block: int) -> float:
    if block < 2**BLOCK_BITS:
        return float(block / 2 ** (BLOCK_BITS + LOW_BITS))
    return float((block - 2**BLOCK_BITS) / 2**BLOCK_BITS)


def _blocks(rows: DataFrame, positives: int, negatives: int) -> list[_Block]:
    """Totals by block, in order of the score."""
    found = _blocks_of(rows, _value(positives), _value(negatives)).collect()
    return [
        _Block(
            _low_score(row["block"]),
            _units(row["positives"]),
            _units(row["negatives"]),
            _units(row["area"]),
        )
        for row in sorted(found, key=lambda row: int(row["block"]))
    ]


def _blocks_of(rows: DataFrame, positives: float, negatives: float) -> DataFrame:
    """One row a block; one shuffle, as grouping and window keep to its blocks."""
    positive, weight = F.col("label") == 1, F.col("weight")
    by_score = (
        rows.withColumn("block", _block_of(F.col("score")))
        .repartition("block")
        .groupBy("block", "score")
        .agg(
            _exact_sum(F.when(positive, weight).otherwise(0.0)).alias("positives"),
            _exact_sum(F.when(positive, 0.0).otherwise(weight)).alias("negatives"),
        )
    )
    upward = Window.partitionBy("block").orderBy("score")
    up_to = upward.rowsBetween(Window.unboundedPreceding, Window.currentRow)
    passed = F.struct(*(F.sum(f"negatives.{limb}").over(up_to).alias(limb) for limb in LIMBS))
    # Negatives below this score, and half of those with the same score.
    outranked = _as_double("passed") - _as_double("negatives") / 2
    share = (_as_double("positives") / positives) * (outranked / negatives)
    return (
        by_score.withColumn("passed", passed)
        .groupBy("block")
        .agg(
            _sum_of_limbs("positives"),
            _sum_of_limbs("negatives"),
            _exact_sum(share * AREA_SCALE).alias("area"),
        )
    )


def _sum_of_limbs(name: str) -> Column:
    return F.struct(*(F.sum(f"{name}.{limb}").alias(limb) for limb in LIMBS)).alias(name)


def _area(blocks: Sequence[_Block], positives: int, negatives: int) -> float:
    """Areas within blocks, plus each block's positives times the negatives of lower blocks."""
    below = accumulate((block.negatives for block in blocks), initial=0)
    across = sum(block.positives * under for block, under in zip(blocks, below, strict=False))
    within = sum(block.area for block in blocks) / (UNIT * int(AREA_SCALE))
    return float(within + across / (positives * negatives))


def _roc(blocks: Sequence[_Block]) -> Iterable[tuple[float, float]]:
    """Points from (0, 0) to (1, 1), from the highest score down, about evenly apart."""
    falling = list(reversed(blocks))
    false = list(accumulate(block.negatives for block in falling))
    true = list(accumulate(block.positives for block in falling))
    yield 0.0, 0.0
    reached = 0.0
    for negatives, positives in zip(false, true, strict=True):
        x, y = negatives / false[-1], positives / true[-1]
        if x + y - reached >= 2 / CURVE_POINTS or x + y == 2:
            reached = x + y
            yield x, y


def _histogram(blocks: Sequence[_Block]) -> tuple[tuple[float, float], ...]:
    counts: list[list[int]] = [[0, 0] for _ in range(HISTOGRAM_BINS)]
    for block in blocks:
        bin_ = min(int(block.low_score * HISTOGRAM_BINS), HISTOGRAM_BINS - 1)
        counts[bin_][0] += block.negatives
        counts[bin_][1] += block.positives
    negatives, positives = (sum(pair[i] for pair in counts) for i in (0, 1))
    return tuple((n / negatives, p / positives) for n, p in counts)


def as_json(metrics: Metrics) -> dict[str, Any]:
    """Plain values, for the record beside a report."""
    return {"task": metrics.task, "rows": metrics.rows, "weight": metrics.weight, **metrics.values}
