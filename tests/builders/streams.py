"""Streams over shards of uneven row groups, and what all ranks get of them."""

from __future__ import annotations

from typing import Any

import torch

from jobs.batch.batch import Batch
from jobs.lake.examples import Examples
from jobs.train.read.stream import Stream
from schemas.dataset import Dataset
from tests.builders.examples import CLICKS

# Row groups of 1, 7 and 997 rows, empty ones, an empty shard, a shard without row groups.
UNEVEN = {
    ("2026-01-01", "train"): [[997, 1, 7], [0], [], [500, 500]],
    ("2026-01-01", "test"): [[64]],
    ("2026-01-02", "train"): [[65] * 12, [1] * 9],
}
ROWS = 997 + 1 + 7 + 1000 + 65 * 12 + 9


def stream_of(examples: Examples, dataset: Dataset = CLICKS, **changes: Any) -> Stream:
    defaults = {"split": "train", "batch_rows": 64, "streams": 16, "window_rows": 50}
    return Stream(examples, dataset, **{**defaults, **changes})


def steps_of(
    examples: Examples, size: int, epoch: int = 0, start_row: int = 0, **changes: Any
) -> list[list[Batch]]:
    """For each step the pieces of all ranks; fails when ranks take unequal numbers of steps."""
    streams = [stream_of(examples, rank=rank, size=size, **changes) for rank in range(size)]
    epochs = [stream.epoch(epoch, start_row) for stream in streams]
    return [list(pieces) for pieces in zip(*epochs, strict=True)]


def global_batch(pieces: list[Batch]) -> list[int]:
    """Row ids of a global batch, in the order of their positions."""
    position = torch.cat([piece.position[piece.is_row] for piece in pieces])
    row_id = torch.cat([piece.row_id[piece.is_row] for piece in pieces])
    return [int(row) for row in row_id[position.argsort()]]


def global_batches(examples: Examples, size: int, **changes: Any) -> list[list[int]]:
    return [global_batch(pieces) for pieces in steps_of(examples, size, **changes)]


def rows_of(examples: Examples, size: int = 1, **changes: Any) -> list[int]:
    return [row for batch in global_batches(examples, size, **changes) for row in batch]
