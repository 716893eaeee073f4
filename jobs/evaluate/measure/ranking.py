"""How well scores rank rows: ROC and precision-recall curves and the areas under them, by slice.

Exact, from sorted score counts, with one shuffle of the scores: rows go to blocks of neighbouring
scores and are counted by score. The driver adds up the blocks' totals, at most some thousand a
slice, and hands them back, so that each block knows what ranks below it.

A task gets whole blocks: where most rows share one score, one task counts them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import pyarrow as pa
from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from jobs.evaluate.measure.exact import (
    LIMBS,
    UNIT,
    as_double,
    exact_sum,
    limbs_of,
    sum_of_limbs,
    units,
)
from jobs.evaluate.measure.exact import value as float_of

# Blocks of neighbouring scores: width 2^-10, and 2^-17 below 2^-7, where rare events are scored.
BLOCK_BITS, LOW_BITS = 10, 7
# Terms of the areas are at most 1; scaled up so that the three limbs keep bits down to 2^-92.
AREA_SCALE = 2.0**36
CURVE_POINTS = 200
HISTOGRAM_BINS = 32

Curve = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Ranking:
    """How well scores separate the labels of a slice's rows.

    Attributes:
        auc: area under the ROC curve; ties count half.
        auc_error: bound on the error of `auc`; 0 when it is exact.
        pr_auc: average precision, the area under the stepwise precision-recall curve (as in
            Davis and Goadrich, 2006, nothing is interpolated); None when not exact.
        roc: (false, true) positive rate, at most CURVE_POINTS + 2 points.
        pr: (recall, precision), at most CURVE_POINTS + 1 points.
        histogram: (negatives', positives') share of weight by score, HISTOGRAM_BINS bins.
    """

    auc: float
    auc_error: float
    pr_auc: float | None
    roc: Curve
    pr: Curve
    histogram: Curve


@dataclass(frozen=True)
class _Block:
    """Weights of the rows of one block of neighbouring scores, in units of 2^-56."""

    number: int
    positives: int
    negatives: int

    @property
    def low_score(self) -> float:
        if self.number < 2**BLOCK_BITS:
            return float(self.number / 2 ** (BLOCK_BITS + LOW_BITS))
        return float((self.number - 2**BLOCK_BITS) / 2**BLOCK_BITS)


def rank(rows: DataFrame, exact: bool = True) -> dict[str, Ranking]:
    """Ranks scored rows, by slice; slices of one class are left out.

    Args:
        rows: `slice`; doubles score, in [0, 1], label, 0 or 1, and weight.
        exact: False counts rows of one block as tied: no sorting, and an error that is stated.
    """
    counted = counts_by_score(rows) if exact else _counts_by_block(rows)
    counted = counted.persist(StorageLevel.MEMORY_AND_DISK)
    try:
        blocks = _blocks(counted)
        areas = _areas(counted, blocks) if exact else {}
    finally:
        counted.unpersist()
    return {slice_: _ranking(of_slice, areas.get(slice_)) for slice_, of_slice in blocks.items()}


def _ranking(blocks: Sequence[_Block], areas: tuple[float, float] | None) -> Ranking:
    auc, pr_auc = areas if areas else (_auc_of_blocks(blocks), None)
    return Ranking(
        auc=auc,
        auc_error=0.0 if areas else _ties(blocks) / 2,
        pr_auc=pr_auc,
        roc=tuple(_roc(blocks)),
        pr=tuple(_pr(blocks)),
        histogram=_histogram(blocks),
    )


# In Spark


def _block_of(score: Column) -> Column:
    """Number of the score's block; never falls as the score rises."""
    fine = F.floor(score * 2.0 ** (BLOCK_BITS + LOW_BITS))
    coarse = 2**BLOCK_BITS + F.floor(score * 2.0**BLOCK_BITS)
    return F.when(score < 2.0**-LOW_BITS, fine).otherwise(coarse)


def _counts(rows: DataFrame, *by: str) -> DataFrame:
    positive, weight = F.col("label") == 1, F.col("weight")
    return rows.groupBy("slice", "score_block", *by).agg(
        exact_sum(F.when(positive, weight).otherwise(0.0)).alias("positives"),
        exact_sum(F.when(positive, 0.0).otherwise(weight)).alias("negatives"),
    )


def counts_by_score(rows: DataFrame) -> DataFrame:
    """Weights by (slice, block, score); the shuffle keeps a slice's block in one task."""
    placed = rows.withColumn("score_block", _block_of(F.col("score")))
    return _counts(placed.repartition("slice", "score_block"), "score")


def _counts_by_block(rows: DataFrame) -> DataFrame:
    return _counts(rows.withColumn("score_block", _block_of(F.col("score"))))


def _blocks(counted: DataFrame) -> dict[str, list[_Block]]:
    """Totals by slice, in order of the score, of the slices with both classes."""
    totals = counted.groupBy("slice", "score_block").agg(
        sum_of_limbs("positives"), sum_of_limbs("negatives")
    )
    found = totals.toArrow()
    positives, negatives = limbs_of(found, "positives"), limbs_of(found, "negatives")
    by_slice: dict[str, list[_Block]] = {}
    columns = found["slice"].to_pylist(), found["score_block"].to_pylist(), positives, negatives
    for slice_, number, p, n in zip(*columns, strict=True):
        by_slice.setdefault(slice_, []).append(_Block(number, units(p), units(n)))
    return {
        slice_: sorted(blocks, key=lambda block: block.number)
        for slice_, blocks in sorted(by_slice.items())
        if any(b.positives for b in blocks) and any(b.negatives for b in blocks)
    }


def _areas(
    counted: DataFrame, blocks: Mapping[str, Sequence[_Block]]
) -> dict[str, tuple[float, float]]:
    """(AUC, average precision) by slice."""
    if not blocks:
        return {}
    below = counted.sparkSession.createDataFrame(_offsets(blocks))
    upward = Window.partitionBy("slice", "score_block").orderBy("score")
    up_to = upward.rowsBetween(Window.unboundedPreceding, Window.currentRow)
    passed = {
        f"passed_{name}": F.struct(
            *(F.sum(f"{name}.{limb}").over(up_to).alias(limb) for limb in LIMBS)
        )
        for name in ("positives", "negatives")
    }
    # Windows first: they keep the partitioning of the counts, which the join would lose.
    found = (
        counted.withColumns(passed)
        .join(F.broadcast(below), ["slice", "score_block"])
        .groupBy("slice")
        .agg(
            exact_sum(_auc_term() * AREA_SCALE).alias("auc"),
            exact_sum(_precision_term() * AREA_SCALE).alias("pr_auc"),
        )
        .toArrow()
    )
    scale = UNIT * int(AREA_SCALE)
    # The terms are rounded, so those of a perfect order can add up to a bit more than it.
    areas = [
        [min(1.0, units(limbs) / scale) for limbs in limbs_of(found, name)]
        for name in ("auc", "pr_auc")
    ]
    return dict(zip(found["slice"].to_pylist(), zip(*areas, strict=True), strict=True))


def _auc_term() -> Column:
    """Share of the area that the positives with this score add."""
    outranked = (
        F.col("below_negatives") + as_double("passed_negatives") - as_double("negatives") / 2
    )
    return (as_double("positives") / F.col("all_positives")) * (outranked / F.col("all_negatives"))


def _precision_term() -> Column:
    """Share of the positives with this score, times the precision of taking it and those above."""

    def from_here_up(name: str) -> Column:
        lower = F.col(f"below_{name}") + (as_double(f"passed_{name}") - as_double(name))
        return F.col(f"all_{name}") - lower

    right, wrong = from_here_up("positives"), from_here_up("negatives")
    share = as_double("positives") / F.col("all_positives")
    return F.when(as_double("positives") > 0, share * right / (right + wrong)).otherwise(0.0)


def _offsets(blocks: Mapping[str, Sequence[_Block]]) -> pa.Table:
    """Weights of a slice's rows in lower blocks, and of all its rows, for each block."""
    rows = []
    for slice_, of_slice in blocks.items():
        positives = list(accumulate((b.positives for b in of_slice), initial=0))
        negatives = list(accumulate((b.negatives for b in of_slice), initial=0))
        whole = float_of(positives[-1]), float_of(negatives[-1])
        for b, p, n in zip(of_slice, positives, negatives, strict=False):
            rows.append((slice_, b.number, float_of(p), float_of(n), *whole))
    names = ["slice", "score_block", "below_positives", "below_negatives"]
    names += ["all_positives", "all_negatives"]
    return pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows])


# On the driver, from the blocks


def _auc_of_blocks(blocks: Sequence[_Block]) -> float:
    positives, negatives = sum(b.positives for b in blocks), sum(b.negatives for b in blocks)
    below = accumulate((block.negatives for block in blocks), initial=0)
    doubled = sum(
        b.positives * (2 * under + b.negatives) for b, under in zip(blocks, below, strict=False)
    )
    return doubled / (2 * positives * negatives)


def _ties(blocks: Sequence[_Block]) -> float:
    """Share of the pairs of a positive and a negative row that are in one block."""
    positives, negatives = sum(b.positives for b in blocks), sum(b.negatives for b in blocks)
    return sum(b.positives * b.negatives for b in blocks) / (positives * negatives)


def _falling(blocks: Sequence[_Block]) -> list[tuple[int, int]]:
    """(negatives, positives) from the highest score down to each block's lowest."""
    falling = list(reversed(blocks))
    negatives = accumulate(block.negatives for block in falling)
    positives = accumulate(block.positives for block in falling)
    return list(zip(negatives, positives, strict=True))


def _roc(blocks: Sequence[_Block]) -> Iterable[tuple[float, float]]:
    """Points from (0, 0) to (1, 1), from the highest score down, about evenly apart."""
    falling = _falling(blocks)
    all_negatives, all_positives = falling[-1]
    yield 0.0, 0.0
    reached = 0.0
    for negatives, positives in falling:
        x, y = negatives / all_negatives, positives / all_positives
        if x + y - reached >= 2 / CURVE_POINTS or x + y == 2:
            reached = x + y
            yield x, y


def _pr(blocks: Sequence[_Block]) -> Iterable[tuple[float, float]]:
    """Points from low to full recall, about evenly apart."""
    falling = _falling(blocks)
    reached = -1.0
    for negatives, positives in falling:
        recall = positives / falling[-1][1]
        if recall - reached >= 1 / CURVE_POINTS or (recall == 1 and reached < 1):
            reached = recall
            yield recall, positives / (positives + negatives)


def _histogram(blocks: Sequence[_Block]) -> Curve:
    counts: list[list[int]] = [[0, 0] for _ in range(HISTOGRAM_BINS)]
    for block in blocks:
        bin_ = min(int(block.low_score * HISTOGRAM_BINS), HISTOGRAM_BINS - 1)
        counts[bin_][0] += block.negatives
        counts[bin_][1] += block.positives
    negatives, positives = (sum(pair[i] for pair in counts) for i in (0, 1))
    return tuple((n / negatives, p / positives) for n, p in counts)
