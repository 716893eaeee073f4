"""The row groups of some shards: their numbers, their row counts, and their files."""

from __future__ import annotations

from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from jobs.base.errors import DataRefused, MillstreamError
from jobs.lake.manifest import Shard
from jobs.train.order.plan import Ints
from jobs.train.read.foreign import ForeignColumns


class RowGroups:
    """The row groups of some shards, numbered in the order of the shards.

    Attributes:
        url: of the examples.
        shards: in order of (ds, split, number).
        foreign: what makes others' columns those of the declaration; None for examples.
        group_rows: int64 [R].
    """

    def __init__(
        self, url: str, shards: list[Shard], foreign: ForeignColumns | None = None
    ) -> None:
        self.url, self.shards, self.foreign = url, shards, foreign
        self._fs, self._root = fsspec.core.url_to_fs(url)
        counts = np.array([len(shard.row_group_rows) for shard in shards], np.int64)
        self._first = np.cumsum(counts) - counts
        self.group_rows: Ints = np.fromiter(
            (rows for shard in shards for rows in shard.row_group_rows), np.int64
        )

    def locate(self, group: int) -> tuple[Shard, int]:
        """The shard that holds a row group, and its number there."""
        shard = int(self._first.searchsorted(group, "right")) - 1
        return self.shards[shard], group - int(self._first[shard])

    def open(self, shard: Shard) -> pq.ParquetFile:
        """Opens a shard; pages are checked against the checksums that Spark writes.

        Raises:
            DataRefused: others' file has another size by now.
        """
        path, size = f"{self._root}/{shard.path}", shard.bytes if self.foreign else None
        if type(self._fs) is LocalFileSystem:
            _check_size(Path(path).stat().st_size, size)
            return pq.ParquetFile(pa.OSFile(path), page_checksum_verification=True)
        # One request for the columns of a row group; the file's own read-ahead would fetch more.
        file = self._fs.open(path, "rb", cache_type="none")
        _check_size(file.size, size)
        return pq.ParquetFile(file, pre_buffer=True, page_checksum_verification=True)

    def name(self, group: int) -> str:
        """What a message calls a row group."""
        shard, number = self.locate(group)
        return f"row group {number} of shard {self.url}/{shard.path}"

    def refusal(self, group: int, error: Exception) -> MillstreamError:
        """The error that says which row group could not be read, and why."""
        shard, _ = self.locate(group)
        cause = (
            error.found
            if isinstance(error, MillstreamError)
            else f"{type(error).__name__}: {error}"
        )
        if self.foreign:
            expected, remedy = "the rows that its footer told of", "restore the file, or look again"
        else:
            expected = "the rows that the ETL wrote"
            remedy = f"restore the file, or run the ETL of {shard.ds} again"
        if isinstance(error, MillstreamError):
            expected = error.expected
        return DataRefused(f"{self.name(group)}: {cause}", expected, remedy)


def _check_size(found: int, expected: int | None) -> None:
    if expected is not None and found != expected:
        raise DataRefused(f"the file has {found} bytes by now", f"{expected}")
