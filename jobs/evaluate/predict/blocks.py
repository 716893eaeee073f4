"""Scores that do not depend on a row's batch mates: each forward has the same number of rows.

A matrix product of another number of rows may take another way through the processor, which moves
the last bits of its results. Blocks that are short are padded with copies of their first row.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from jobs.batch.batch import Batch
from jobs.evaluate.predict.predict import Forward


def block_scores(forward: Forward, batch: Batch, block_rows: int) -> npt.NDArray[np.float32]:
    """Scores [b], or [b, classes], of b > 0 rows; a row's bits are the same in any batch."""
    return np.concatenate(list(_blocks(forward, batch, block_rows)))


def _blocks(forward: Forward, batch: Batch, block_rows: int) -> Iterator[npt.NDArray[np.float32]]:
    for start in range(0, len(batch), block_rows):
        block = batch[start : start + block_rows]
        yield forward(block.repeated_to(block_rows))[: len(block)]
