"""Quantiles from counts by bucket: whole numbers that merge, the same in any order of rows.

The buckets are equally wide in the eighth root of a value: nearly relative, yet with an end at 0,
and made of square roots, which every machine rounds alike. A quantile is right to half its bucket:
1.6 % of values near 1, 0.9 % near 100, 5 % near 0.0001.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate

# (bucket, count), in order of the buckets.
Buckets = tuple[tuple[int, int], ...]

BUCKETS_A_ROOT = 256


def bounds(bucket: int) -> tuple[float, float]:
    """The smaller and the larger end of a bucket: 0 and up for values from 0, else -1 and down."""
    inner = bucket if bucket >= 0 else -1 - bucket
    low, high = ((edge / BUCKETS_A_ROOT) ** 8 for edge in (inner, inner + 1))
    return (low, high) if bucket >= 0 else (-high, -low)


def merged(parts: Iterable[Buckets]) -> Buckets:
    """Several counts added up."""
    counts: dict[int, int] = {}
    for part in parts:
        for bucket, count in part:
            counts[bucket] = counts.get(bucket, 0) + count
    return tuple(sorted(counts.items()))


def quantiles(
    buckets: Buckets, fractions: Sequence[float], low: float, high: float
) -> tuple[float, ...]:
    """The values below which the fractions of the rows lie, by nearest rank.

    Args:
        buckets: of at least one row.
        fractions: from 0 to 1.
        low, high: the least and the greatest value, which no quantile exceeds.

    Returns:
        The middle of each one's bucket.
    """
    seen = list(accumulate(count for _, count in buckets))
    ranks = [max(1, math.ceil(fraction * seen[-1])) for fraction in fractions]
    middles = [sum(bounds(buckets[bisect_left(seen, rank)][0])) / 2 for rank in ranks]
    return tuple(min(max(middle, low), high) for middle in middles)
