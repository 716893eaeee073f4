"""The row ledger of an epoch: proof that every row was trained exactly once.

Each rank counts the rows of its steps, and sums the hashes of their ids. The ETL wrote the same two
numbers for every shard. A row that was left out, or trained twice, changes them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from jobs.base.errors import MillstreamError
from jobs.base.xxhash import xxhash64_of_numbers
from jobs.batch.batch import Batch
from jobs.lake.manifest import UINT64, Shard
from jobs.train.exchange.exchange import Exchange


class RowsMissed(MillstreamError):
    """An epoch did not train each row once; its model is not kept."""


@dataclass(frozen=True)
class RowCount:
    """A number of rows, and the sum of the hashes of their ids, modulo 2^64."""

    rows: int
    id_sum: int

    @classmethod
    def of_shards(cls, shards: Iterable[Shard]) -> RowCount:
        """The count that the ETL wrote for some shards."""
        listed = list(shards)
        id_sum = sum(shard.row_id_sum for shard in listed) % UINT64
        return cls(sum(shard.rows for shard in listed), id_sum)


NO_ROWS = RowCount(0, 0)


class RowLedger:
    """Counts the rows that this rank trains.

    Args:
        before: count of the rows of the epoch that all ranks together trained before.
    """

    def __init__(self, before: RowCount = NO_ROWS) -> None:
        self._before = before
        self._rows = 0
        self._id_sum = 0

    def add(self, batch: Batch) -> None:
        """Counts the rows of a batch, without its padding."""
        ids = batch.row_id[batch.is_row].cpu().numpy()
        self._rows += len(ids)
        self._id_sum = (self._id_sum + int(xxhash64_of_numbers(ids).sum(dtype=np.uint64))) % UINT64

    def total(self, exchange: Exchange) -> RowCount:
        """The count of all ranks, which must all call this."""
        (total,) = exchange.start_sums([self.parts()]).result()
        return self.of_parts(total)

    def parts(self) -> torch.Tensor:
        """This rank's count, int64 [3]: rows, upper and lower half of the sum of hashes.

        Sums of it over ranks stay within int64.
        """
        parts = [self._rows, self._id_sum >> 32, self._id_sum & 0xFFFFFFFF]
        return torch.tensor(parts, dtype=torch.int64)

    def of_parts(self, total: torch.Tensor) -> RowCount:
        """The count of all ranks, from the sum of their `parts`."""
        rows, high, low = total.tolist()
        id_sum = self._before.id_sum + (high << 32) + low
        return RowCount(self._before.rows + rows, id_sum % UINT64)


def check(trained: RowCount, written: RowCount, epoch: int) -> None:
    """Compares the rows that an epoch trained with those that the ETL wrote.

    Raises:
        RowsMissed: they differ.
    """
    if trained != written:
        raise RowsMissed(
            f"epoch {epoch} trained {trained.rows} rows (id sum {trained.id_sum})",
            f"each of {written.rows} rows once (id sum {written.id_sum})",
            "keep the settings and the examples version, and report this",
        )
