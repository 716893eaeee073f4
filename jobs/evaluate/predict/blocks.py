"""Scores that do not depend on a row's batch mates: forwards are of a few fixed sizes.

A matrix product of another number of rows may take another way through the processor, which moves
the last bits of its results. So rows are scored in blocks of one size, and what is left of them in
a smaller one only where that was seen to give the same bits. Short blocks are padded with copies of
their first row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from jobs.batch.batch import Batch
from jobs.evaluate.predict.predict import Forward

# Fewer rows tell too little about a size.
_ROWS_TO_TRY = 16


def block_scores(forward: Forward, batch: Batch, sizes: Sequence[int]) -> npt.NDArray[np.float32]:
    """Scores [b], or [b, classes], of b > 0 rows; a row's bits are the same in any batch.

    Args:
        sizes: rows of a block, ascending, all with the same bits: see `sizes_of_same_bits`.
    """
    found = list(_blocks(forward, batch, sizes))
    return np.concatenate(found) if len(found) > 1 else found[0]


def _blocks(
    forward: Forward, batch: Batch, sizes: Sequence[int]
) -> Iterator[npt.NDArray[np.float32]]:
    count, largest = len(batch), sizes[-1]
    for start in range(0, count, largest):
        rows = min(largest, count - start)
        block = batch[start : start + rows] if rows < count else batch
        size = next(size for size in sizes if size >= rows)
        scores = forward(block.repeated_to(size))
        yield scores[:rows] if rows < size else scores


def sizes_of_same_bits(forward: Forward, batch: Batch, block_rows: int) -> tuple[int, ...]:
    """`block_rows`, and the powers of two below it at which each row of a batch has the same bits.

    Each is tried at two places of a block. Of a batch of few rows nothing is concluded.
    """
    if len(batch) < _ROWS_TO_TRY:
        return (block_rows,)
    orders = (batch, batch.reversed())
    wanted = [block_scores(forward, rows, (block_rows,)).tobytes() for rows in orders]
    powers = (1 << power for power in range((block_rows - 1).bit_length()))
    same = [
        size
        for size in powers
        if [block_scores(forward, rows, (size,)).tobytes() for rows in orders] == wanted
    ]
    return (*same, block_rows)
