"""How well the stream mixes, against an ideal permutation of the same rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from jobs.lake.examples import Examples
from jobs.train.read.stream import Stream
from schemas.dataset import Dataset


@dataclass(frozen=True)
class Quality:
    """Of one epoch's full batches.

    Attributes:
        spread: standard deviation of the batches' label rates over that of an ideal permutation.
        lag_1: correlation of the label rates of a batch and the next; 0 is ideal.
        dates, shards: different ones in a batch, on average.
    """

    spread: float
    lag_1: float
    dates: float
    shards: float


def quality_of(examples: Examples, dataset: Dataset, batch_rows: int, **settings: int) -> Quality:
    """Measures epoch 0; row ids must count the rows in the order of the shards."""
    stream = Stream(examples, dataset, split="train", batch_rows=batch_rows, **settings)
    shards = examples.shards("train")
    ends = np.cumsum([shard.rows for shard in shards])
    dates = np.unique([shard.ds for shard in shards], return_inverse=True)[1]
    rates, seen = [], []
    labels = 0.0
    for batch in stream.epoch(0):
        labels += float(batch.label.sum())
        if len(batch) == batch_rows:
            of_shard = np.searchsorted(ends, batch.row_id.numpy(), side="right")
            seen.append((len(np.unique(dates[of_shard])), len(np.unique(of_shard))))
            rates.append(float(batch.label.mean()))
    rate = labels / stream.rows
    # Without replacement, so that the last rows are those that are left.
    variance = rate * (1 - rate) / batch_rows * (1 - batch_rows / stream.rows)
    num_dates, num_shards = np.mean(seen, axis=0)
    return Quality(
        spread=float(np.std(rates) / np.sqrt(variance)),
        lag_1=_lag_1(np.array(rates)),
        dates=float(num_dates),
        shards=float(num_shards),
    )


def _lag_1(rates: npt.NDArray[np.float64]) -> float:
    return float(np.corrcoef(rates[:-1], rates[1:])[0, 1])


def row(name: str, quality: Quality) -> Iterator[str]:
    """Cells of a table."""
    yield name
    yield f"{quality.spread:.2f}"
    yield f"{quality.lag_1:+.2f}"
    yield f"{quality.dates:.0f}"
    yield f"{quality.shards:.0f}"
