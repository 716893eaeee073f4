"""Scores that do not depend on a row's batch mates: forwards are of a few fixed sizes.

A matrix product of another number of rows may take another way through the processor, which moves
the last bits of its results. So rows are scored in blocks of one size, and many of them in larger
blocks, or what is left of them in a smaller one, only where these were seen to give the same bits.
Short blocks are padded with copies of their first row.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import takewhile

import numpy as np
import numpy.typing as npt
import torch

from jobs.batch.batch import Batch
from jobs.evaluate.predict.predict import Forward

log = logging.getLogger("millstream.serve")

# Sizes of a small model are tried within a second; each row of a large one may take as long.
_MOST_S = 10.0
# A size is tried with so many rows, made of at least so many.
_ROWS_TO_TRY, _ROWS_TO_MIX = 2_048, 16
# Of fewer rows two forwards cost more than one with some rows of padding.
_ROWS_TO_SPLIT = 64
# Larger blocks than so many times the asked one leave a processor's caches.
_MOST_TIMES = 8


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
    start, count = 0, len(batch)
    while start < count:
        size = _size(count - start, sizes)
        rows = min(size, count - start)
        block = batch[start : start + rows] if rows < count else batch
        scores = forward(block.repeated_to(size))
        yield scores[:rows] if rows < size else scores
        start += rows


def _size(rows: int, sizes: Sequence[int]) -> int:
    """Of the next block, where so many rows are left."""
    full = max((size for size in sizes if size <= rows), default=0)
    if full >= min(_ROWS_TO_SPLIT, sizes[-1]):
        return full
    return next(size for size in sizes if size >= rows)


def sizes_of_same_bits(
    forward: Forward,
    batch: Batch,
    block_rows: int,
    most_rows: int,
    most_s: float = _MOST_S,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[int, ...]:
    """`block_rows`, and sizes at which each row of a batch has the same bits: the powers of two
    below it, and its doubles up to `most_rows`, or to 8 times as many.

    What adds up the ends of arrays in another way moves the bits of one row in a hundred, so a size
    is tried with many more rows than the batch has: their columns come from its different rows. Of
    a batch of few rows nothing is concluded, nor of a size that was not tried to its end in time.

    Args:
        most_s: after which nothing more is tried, by `clock`; the smallest sizes are first.
    """
    if len(batch) < _ROWS_TO_MIX:
        return (block_rows,)
    until = clock() + most_s
    expected: dict[tuple[int, int], bytes] = {}

    def is_same(size: int) -> bool:
        together = max(size, len(batch))
        for turn, rows in enumerate(_mixed(batch, together)):
            if clock() >= until:
                log.info("blocks of %d rows were not tried to the end in %g s", size, most_s)
                return False
            key = (together, turn)
            if key not in expected:
                expected[key] = block_scores(forward, rows, (block_rows,)).tobytes()
            if block_scores(forward, rows, (size,)).tobytes() != expected[key]:
                return False
        return True

    powers = (1 << power for power in range((block_rows - 1).bit_length()))
    doubles = (block_rows << times for times in range(1, _MOST_TIMES.bit_length()))
    larger = takewhile(is_same, (size for size in doubles if size <= most_rows))
    return (*filter(is_same, powers), block_rows, *larger)


def is_same_at_each_place(
    forward: Forward, batch: Batch, block_rows: int, most_s: float = _MOST_S
) -> bool:
    """Whether rows of a batch had the same bits one place further on in a block, as far as that
    was tried in so many seconds."""
    until = time.monotonic() + most_s
    for rows in _mixed(batch, len(batch)):
        found = block_scores(forward, rows, (block_rows,))[1:]
        if (
            len(found)
            and block_scores(forward, rows[1:], (block_rows,)).tobytes() != found.tobytes()
        ):
            return False
        if time.monotonic() >= until:
            break
    return True


def _mixed(batch: Batch, rows: int) -> Iterator[Batch]:
    """Batches of so many rows; first the rows of the batch as they are."""
    places = torch.arange(rows)

    def shifted(tensor: torch.Tensor, turn: int) -> torch.Tensor:
        columns = torch.arange(tensor.shape[1])
        return tensor[(places[:, None] + turn * (1 + columns)) % len(tensor), columns]

    for turn in range(-(-_ROWS_TO_TRY // rows)):
        yield replace(
            batch.cycled(rows), dense=shifted(batch.dense, turn), sparse=shifted(batch.sparse, turn)
        )
