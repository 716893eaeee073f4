"""Where the rows of an embedding table are, when several ranks or files share them.

A row's bucket is its id modulo the number of buckets, which never changes with the number of ranks:
rank r of n has the buckets b with b mod n = r. Its *piece* of the table is their rows, one bucket
after the other, ascending. All of it is arithmetic: nothing is kept that grows with the table.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from jobs.base.errors import ConfigError


@dataclass(frozen=True)
class Buckets:
    """The buckets of a table.

    Row id i is in bucket i mod count, at slot i // count of it.

    Attributes:
        rows: of the table.
        count: of the buckets, some of which may be empty.
    """

    rows: int
    count: int = 1024

    def owned(self, rank: int, ranks: int) -> range:
        """The buckets of a rank, ascending.

        Raises:
            ConfigError: there are fewer buckets than ranks.
        """
        if ranks > self.count:
            raise ConfigError(
                f"{ranks} ranks share tables of {self.count} buckets",
                "at most as many ranks as train.table_buckets",
                "lower train.workers; train.table_buckets cannot change while a training goes on",
            )
        return range(rank, self.count, ranks)

    def rows_of(self, bucket: int) -> int:
        """Rows of a bucket."""
        return max(0, -(-(self.rows - bucket) // self.count))

    def begin(self, bucket: int, ranks: int) -> int:
        """Index of the bucket's first row in its owner's piece."""
        before, owner = divmod(bucket, ranks)
        longer = -(-(self.rows % self.count - owner) // ranks)
        return before * (self.rows // self.count) + min(before, max(0, longer))

    def piece_rows(self, rank: int, ranks: int) -> int:
        """Rows of a rank's piece."""
        owned = self.owned(rank, ranks)
        return self.begin(owned[-1], ranks) + self.rows_of(owned[-1])

    def owners(self, ids: Tensor, ranks: int) -> Tensor:
        """The ranks that have the rows `ids` [k], int64 [k]."""
        return ids.long() % self.count % ranks

    def places(self, ids: Tensor, ranks: int) -> Tensor:
        """The index of each of the rows `ids` [k] in its owner's piece, int64 [k]."""
        bucket, slot = ids.long() % self.count, ids.long().div(self.count, rounding_mode="floor")
        before, owner = bucket.div(ranks, rounding_mode="floor"), bucket % ranks
        longer = (self.rows % self.count - owner + ranks - 1).div(ranks, rounding_mode="floor")
        # The first buckets of each rank may have one row more.
        more = torch.minimum(before, longer.clamp(min=0))
        return before * (self.rows // self.count) + more + slot

    def ids(self, rank: int, ranks: int) -> Tensor:
        """The ids of the rows in a rank's piece, in order, int64 [piece_rows]."""
        owned = self.owned(rank, ranks)
        return torch.cat([torch.arange(b, max(b, self.rows), self.count) for b in owned])

    def begins(self, ranks: int) -> Tensor:
        """The address of each rank's first row, and then the table's rows: int64 [ranks + 1].

        A row's *address* is its index in all pieces laid one after the other, rank by rank.
        """
        sizes = [self.piece_rows(rank, ranks) for rank in range(ranks)]
        return torch.tensor([0, *sizes]).cumsum(0)

    def addresses(self, ids: Tensor, ranks: int) -> Tensor:
        """The addresses of the rows `ids` [k], int64 [k]."""
        begins = self.begins(ranks).to(ids.device)
        return begins[self.owners(ids, ranks)] + self.places(ids, ranks)
