"""A score has the same bits whatever it shares a block with; sizes that move them are unused."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from jobs.batch.batch import Batch
from jobs.evaluate.predict.blocks import block_scores, is_same_at_each_place, sizes_of_same_bits
from jobs.evaluate.predict.exported import batch_of


def rows(count: int) -> Batch:
    dense = torch.rand(count, 3, generator=torch.Generator().manual_seed(3))
    return batch_of({"dense": dense, "sparse": torch.zeros(count, 0, dtype=torch.int64)})


class Forward:
    """Sums of rows, added up in another order where a block has one of these numbers of rows."""

    def __init__(self, *odd: int) -> None:
        self.odd, self.seen = odd, set[int]()

    def __call__(self, batch: Batch) -> npt.NDArray[np.float32]:
        dense = batch.dense.numpy()
        self.seen.add(len(dense))
        a, b, c = dense.T
        return np.asarray(a + (b + c) if len(dense) in self.odd else (a + b) + c, np.float32)


def test_sizes_that_move_bits_are_left_out() -> None:
    assert sizes_of_same_bits(Forward(), rows(64), 32, 32) == (1, 2, 4, 8, 16, 32)
    assert sizes_of_same_bits(Forward(1, 8), rows(64), 32, 32) == (2, 4, 16, 32)
    assert sizes_of_same_bits(Forward(), rows(64), 24, 30) == (1, 2, 4, 8, 16, 24)


def test_a_size_that_moves_few_rows_is_left_out() -> None:
    """None of those of the batch itself."""
    batch = rows(64)
    own = {tuple(row) for row in batch.dense.tolist()}

    class Rarely(Forward):
        def __call__(self, batch: Batch) -> npt.NDArray[np.float32]:
            scores = super().__call__(batch)
            if len(scores) in (8, 64):
                new = [tuple(row) not in own for row in batch.dense.tolist()]
                scores[np.array(new) & (scores < 0.5)] += 1
            return scores

    assert sizes_of_same_bits(Rarely(), batch, 32, 64) == (1, 2, 4, 16, 32)


def test_larger_sizes_are_taken_up_to_the_first_that_moves_bits() -> None:
    assert sizes_of_same_bits(Forward(), rows(20), 16, 100) == (1, 2, 4, 8, 16, 32, 64)
    assert sizes_of_same_bits(Forward(), rows(20), 16, 9_999) == (1, 2, 4, 8, 16, 32, 64, 128)
    assert sizes_of_same_bits(Forward(64), rows(20), 16, 9_999) == (1, 2, 4, 8, 16, 32)


def test_of_few_rows_nothing_is_concluded() -> None:
    assert sizes_of_same_bits(Forward(), rows(15), 32, 99) == (32,)


@pytest.mark.parametrize("most_rows", [0, 2_048, 4_096, 9_000])
def test_of_a_slow_model_only_what_was_tried_in_time_is_taken(most_rows: int) -> None:
    """A second a row; each size and what it is compared with are tried with 2,048 rows."""

    class Slow(Forward):
        clock = 0.0

        def __call__(self, batch: Batch) -> npt.NDArray[np.float32]:
            self.clock += len(batch)
            return super().__call__(batch)

    forward = Slow()
    sizes = sizes_of_same_bits(forward, rows(64), 32, 64, most_rows, lambda: forward.clock)
    tried = {0: (), 2_048: (), 4_096: (1,), 9_000: (1, 2, 4)}
    assert sizes == (*tried[most_rows], 32)
    # At most one turn more, of 64 rows twice.
    assert forward.clock <= most_rows + 128


def test_it_is_seen_where_a_place_in_a_block_moves_bits() -> None:
    class Ends(Forward):
        """Adds up the last rows of a block in another order."""

        def __call__(self, batch: Batch) -> npt.NDArray[np.float32]:
            scores, whole = super().__call__(batch), len(batch) // 16 * 16
            a, b, c = batch.dense.numpy()[whole:].T
            scores[whole:] = a + (b + c)
            return scores

    assert is_same_at_each_place(Ends(), rows(64), 32)
    assert not is_same_at_each_place(Ends(), rows(64), 50)


@pytest.mark.parametrize("count", [1, 3, 31, 32, 33, 70, 199, 300])
def test_any_number_of_rows_has_the_same_bits(count: int) -> None:
    forward = Forward(1, 8, 256)
    sizes = sizes_of_same_bits(forward, rows(64), 32, 512)
    forward.seen.clear()
    batch = rows(300)
    whole = block_scores(forward, batch, sizes)
    assert block_scores(forward, batch[:count], sizes).tobytes() == whole[:count].tobytes()
    assert forward.seen <= set(sizes)
