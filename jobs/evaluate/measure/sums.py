"""The sums that most metrics are made of: by slice, jackknife block and calibration bin, exact."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from jobs.base.errors import DataRefused
from jobs.evaluate.measure.exact import (
    MOST_ROWS,
    Limbs,
    exact_sum,
    floats,
    limbs_of,
    units,
)
from schemas.field import Task

Floats = npt.NDArray[np.float64]

ALL = ""  # the slice of all rows
# Scores are float32: log loss sees them no nearer to 0 and 1 than float32's own step at 1.
SCORE_EPSILON = float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class Sums:
    """Sums over one slice's rows.

    Attributes:
        rows: int64 [bins].
        limbs: term -> int64 [blocks, bins, 3], as `exact` cuts them.
    """

    rows: npt.NDArray[np.int64]
    limbs: Mapping[str, Limbs]

    def total(self, term: str) -> int:
        """Over all rows, in units of 2^-56."""
        return units(self.limbs[term].sum(axis=(0, 1)))

    def mean(self, term: str) -> float:
        return self.total(term) / self.total("weight")

    def by_bin(self, term: str) -> list[int]:
        """Over each bin's rows, in units of 2^-56."""
        return [units(limbs) for limbs in self.limbs[term].sum(axis=0)]

    def without_each_block(self, term: str) -> Floats:
        """Over the rows that are not of block b, [blocks, bins]."""
        limbs = self.limbs[term]
        return floats(limbs.sum(axis=0) - limbs)


def sums_by_slice(
    rows: DataFrame,
    task: Task,
    name: str,
    *,
    bins: int,
    blocks: int,
    threshold: float,
    centre: float = 0.0,
) -> dict[str, Sums]:
    """Sums of the terms that the task's metrics need, by slice.

    Args:
        rows: doubles score, label and weight; `slice`; `block`, from 0 to `blocks` - 1. With a
            multiclass label score is the probability of the label's class, and `predicted_class`
            is there.
        name: of the rows, for errors.
        threshold: a score from here on predicts label 1.
        centre: of a regression's labels, see `Scaling`.

    Raises:
        DataRefused: no rows or too many, an impossible score, label or weight.
    """
    terms = _terms(task, threshold, centre)
    bad = {problem: F.count_if(condition) for problem, condition in _problems(task).items()}
    bin_ = (
        F.least(F.floor(F.col("score") * bins), F.lit(bins - 1)) if task == "binary" else F.lit(0)
    )
    found = (
        rows.groupBy("slice", "block", bin_.cast("int").alias("bin"))
        .agg(
            F.count("*").alias("rows"),
            *(column.alias(problem) for problem, column in bad.items()),
            *(exact_sum(term).alias(term_name) for term_name, term in terms.items()),
        )
        .toArrow()
    )
    whole = found.filter(pc.equal(found["slice"], ALL))
    _refuse_impossible(whole, list(bad), task, name)
    _refuse_too_many(whole, name)
    return {
        slice_: _of_slice(found.filter(pc.equal(found["slice"], slice_)), list(terms), bins, blocks)
        for slice_ in sorted(found["slice"].unique().to_pylist())
    }


def _of_slice(found: pa.Table, terms: list[str], bins: int, blocks: int) -> Sums:
    places = found["block"].to_numpy(), found["bin"].to_numpy()
    rows = np.zeros(bins, np.int64)
    np.add.at(rows, places[1], found["rows"].to_numpy())
    limbs = {}
    for term in terms:
        limbs[term] = np.zeros((blocks, bins, 3), np.int64)
        limbs[term][places] = limbs_of(found, term)
    return Sums(rows, limbs)


def _terms(task: Task, threshold: float, centre: float) -> dict[str, Column]:
    score, label, weight = F.col("score"), F.col("label"), F.col("weight")
    error = score - label
    if task == "multiclass":
        right = F.col("predicted_class") == label
        loss = -F.log(F.least(F.greatest(score, F.lit(SCORE_EPSILON)), F.lit(1.0)))
        of_right = F.when(right, weight).otherwise(0.0)
        return {"weight": weight, "loss": weight * loss, "right": of_right}
    terms = {"weight": weight, "score": weight * score, "label": weight * label}
    terms["squared"] = weight * error * error
    if task == "regression":
        deviation = label - centre
        terms |= {"absolute": weight * F.abs(error), "deviation": weight * deviation}
        return {**terms, "deviation_squared": weight * deviation * deviation}
    clipped = F.least(F.greatest(score, F.lit(SCORE_EPSILON)), F.lit(1 - SCORE_EPSILON))
    loss = -F.log(F.when(label == 1, clipped).otherwise(1 - clipped))
    positive = score >= threshold
    terms["loss"] = weight * loss
    terms["right"] = F.when(positive == (label == 1), weight).otherwise(0.0)
    terms["true_positive"] = F.when(positive & (label == 1), weight).otherwise(0.0)
    terms["positive"] = F.when(positive, weight).otherwise(0.0)
    return terms


_EXPECTED = {
    "binary": "scores in [0, 1], labels 0 or 1, weights finite and above 0",
    "regression": "finite scores and labels, weights finite and above 0",
    "multiclass": "a probability in [0, 1] of the label's class, weights finite and above 0",
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
    if task != "regression":
        problems["a score outside [0, 1]"] = finite_score & ~score.between(0.0, 1.0)
    if task == "binary":
        problems["a label other than 0 and 1"] = finite_label & ~label.isin(0.0, 1.0)
    return problems


def _refuse_impossible(whole: pa.Table, problems: list[str], task: Task, name: str) -> None:
    if not whole.num_rows:
        raise DataRefused(f"{name} has no rows", "at least one row to measure")
    for problem in problems:
        if count := pc.sum(whole[problem]).as_py():
            raise DataRefused(f"{name}: {count} rows have {problem}", _EXPECTED[task])


def _refuse_too_many(whole: pa.Table, name: str) -> None:
    rows = pc.sum(whole["rows"]).as_py()
    if rows >= MOST_ROWS:
        raise DataRefused(f"{name} has {rows:,} rows", f"fewer than {MOST_ROWS:,} to measure")
