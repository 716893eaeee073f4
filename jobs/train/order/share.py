"""Which rows of the order, and so of each global batch, one rank of several has."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jobs.base.errors import ConfigError
from jobs.train.order.plan import Ints
from jobs.train.order.slices import Slices


@dataclass(frozen=True)
class RankShare:
    """A rank's share of the order: neighbouring streams, as many as others have, or one more.

    Neighbours have row groups in common, which one rank then reads once.

    Attributes:
        rows: of the epoch.
        streams: S.
        batch_rows: of a global batch, which takes equally many rows from all streams.
        rank, size: the rank's number, and the number of ranks.
        gradient_slices: of a batch; where there are several, a rank has whole ones, with all their
            streams.

    Raises:
        ConfigError: there are more ranks than streams or slices, or what should be a multiple of
            another is none.
    """

    rows: int
    streams: int
    batch_rows: int
    rank: int = 0
    size: int = 1
    gradient_slices: int = 1

    def __post_init__(self) -> None:
        if self.size > self.streams:
            raise ConfigError(
                f"{self.size} ranks (size), {self.streams} streams (stream.streams)",
                "at most one rank a stream",
                "raise stream.streams, which starts another order, or train with fewer ranks",
            )
        if self.batch_rows < 1 or self.batch_rows % self.streams:
            raise ConfigError(
                f"batch_rows is {self.batch_rows}, stream.streams {self.streams}",
                "a multiple of stream.streams, so that a batch takes equally from all streams",
            )
        Slices.asked(self.gradient_slices, self.streams, self.rank, self.size)

    @property
    def owned(self) -> Ints:
        """int64 [S_r]: numbers of the rank's streams, ascending."""
        # Without slices each stream is one.
        count = self.gradient_slices if self.gradient_slices > 1 else self.streams
        slices = Slices(count, self.streams, self.rank, self.size)
        return np.array(slices.owned_streams, np.int64)

    @property
    def piece_rows(self) -> int:
        """Rows that a full global batch takes from each stream."""
        return self.batch_rows // self.streams

    def steps(self, start_row: int = 0) -> int:
        """Global batches from row `start_row` to the end of the epoch; the last may be short.

        The number is the same for all ranks.
        """
        return -(-max(self.rows - start_row, 0) // self.batch_rows)

    def rows_before(self, row: int) -> Ints:
        """int64 [S_r]: for each of the rank's streams, its rows before row `row` of the epoch."""
        # Stream s has the rows s, s + S, ... of the epoch: ceil((row - s) / S) of them are before.
        before = -((self.owned - min(row, self.rows)) // self.streams)
        return np.maximum(before, 0)
