"""The row ledger of an epoch: proof that every row was trained, once.

TableRows are counted, and the hashes of their ids added up, as they are fed to steps. The ETL wrote
the same pair for every shard. A row left out, or fed twice, changes the count or the sum.
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
    """Rows, and the sum mod 2^64 of the hashes of their ids."""

    rows: int
    id_sum: int

    @classmethod
    def of_shards(cls, shards: Iterable[Shard]) -> RowCount:
        """What the ETL wrote."""
        listed = list(shards)
        id_sum = sum(shard.row_id_sum for shard in listed) % UINT64
        return cls(sum(shard.rows for shard in listed), id_sum)


NO_ROWS = RowCount(0, 0)


class RowLedger:
    """Counts the rows that this rank feeds to steps.

    Args:
        before: what all ranks together had trained of the epoch when this ledger began.
    """

    def __init__(self, before: RowCount = NO_ROWS) -> None:
        self._before = before
        self._rows = 0
        self._id_sum = 0

    def add(self, batch: Batch) -> None:
        ids = batch.row_id[batch.is_row].cpu().numpy()
        self._rows += len(ids)
        self._id_sum = (self._id_sum + int(xxhash64_of_numbers(ids).sum(dtype=np.uint64))) % UINT64

    def total(self, exchange: Exchange) -> RowCount:
        """The count over all ranks."""
        (total,) = exchange.start_sums([self.parts()])()
        return self.of_parts(total)

    def parts(self) -> torch.Tensor:
        """What this rank counted, int64 [3]; parts of ranks may be added up."""
        # The sum in halves, so that no sum over ranks leaves int64.
        parts = [self._rows, self._id_sum >> 32, self._id_sum & 0xFFFFFFFF]
        return torch.tensor(parts, dtype=torch.int64)

    def of_parts(self, total: torch.Tensor) -> RowCount:
        """The count over all ranks, from the sum of their parts."""
        rows, high, low = total.tolist()
        id_sum = self._before.id_sum + (high << 32) + low
        return RowCount(self._before.rows + rows, id_sum % UINT64)


def check(trained: RowCount, written: RowCount, epoch: int) -> None:
    """Raises RowsMissed when the two differ."""
    if trained != written:
        raise RowsMissed(
            f"epoch {epoch} trained {trained.rows} rows (id sum {trained.id_sum})",
            f"each of {written.rows} rows once (id sum {written.id_sum})",
            "keep the settings and the examples version, and report this",
        )
