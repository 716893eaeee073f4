"""The ROC curve of scored rows and the area under it, exact, from sorted score counts.

One shuffle: rows go to blocks of neighbouring scores, are counted by score and sorted within
their block. The driver joins the block totals, at most a few ten thousand.

A task gets whole blocks: where most rows share one score, one task counts them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from jobs.evaluate.exact import LIMBS, UNIT, as_double, exact_sum, sum_of_limbs, units, value

# Blocks of neighbouring scores: width 2^-14, and 2^-21 below 2^-7, where rare events are scored.
BLOCK_BITS, LOW_BITS = 14, 7
# Terms of the area are at most 1; scaled up so that the three limbs keep bits down to 2^-92.
AREA_SCALE = 2.0**36
CURVE_POINTS = 200
HISTOGRAM_BINS = 32


@dataclass(frozen=True)
class Ranking:
    """How well scores separate the labels.

    Attributes:
        auc: area under the exact ROC curve; ties count half.
        roc: (false, true) positive rate, at most CURVE_POINTS + 2 points of that curve.
        histogram: (negatives', positives') share of weight by score, HISTOGRAM_BINS bins.
    """

    auc: float
    roc: tuple[tuple[float, float], ...]
    histogram: tuple[tuple[float, float], ...]


def rank(rows: DataFrame, positives: int, negatives: int) -> Ranking:
    """Ranks scored rows.

    Args:
        rows: doubles score, in [0, 1], label, 0 or 1, and weight.
        positives, negatives: sum of their weights, in units of `exact`; neither 0.
    """
    blocks = _blocks(rows, positives, negatives)
    area = _area(blocks, positives, negatives)
    return Ranking(area, tuple(_roc(blocks)), _histogram(blocks))


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
    found = _blocks_of(rows, value(positives), value(negatives)).collect()
    return [
        _Block(
            _low_score(row["block"]),
            units(row["positives"]),
            units(row["negatives"]),
            units(row["area"]),
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
            exact_sum(F.when(positive, weight).otherwise(0.0)).alias("positives"),
            exact_sum(F.when(positive, 0.0).otherwise(weight)).alias("negatives"),
        )
    )
    upward = Window.partitionBy("block").orderBy("score")
    up_to = upward.rowsBetween(Window.unboundedPreceding, Window.currentRow)
    passed = F.struct(*(F.sum(f"negatives.{limb}").over(up_to).alias(limb) for limb in LIMBS))
    # Negatives below this score, and half of those with the same score.
    outranked = as_double("passed") - as_double("negatives") / 2
    share = (as_double("positives") / positives) * (outranked / negatives)
    return (
        by_score.withColumn("passed", passed)
        .groupBy("block")
        .agg(
            sum_of_limbs("positives"),
            sum_of_limbs("negatives"),
            exact_sum(share * AREA_SCALE).alias("area"),
        )
    )


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
