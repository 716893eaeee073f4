"""Digests: what a shard holds, read back from the file that was written.

Sums of 64-bit hashes of its rows, as Spark's `xxhash64` gives them: one of the rows as a set, one
of the rows in their places, one of the row ids.
"""

from __future__ import annotations

from dataclasses import dataclass

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.base.xxhash import xxhash64_of_rows
from jobs.lake.manifest import UINT64
from jobs.rows.base.arrays import whole
from schemas.dataset import ROW_ID

DIGESTS = ("rows", "digest", "order_digest", "row_id_sum")


@dataclass(frozen=True)
class Digests:
    """Of a file; all but `rows` are sums mod 2^64.

    Attributes:
        digest: of the rows' hashes.
        order_digest: of the hashes of the rows' hashes with their places.
        row_id_sum: of the row ids' hashes.
    """

    rows: int = 0
    digest: int = 0
    order_digest: int = 0
    row_id_sum: int = 0

    def __add__(self, other: Digests) -> Digests:
        return Digests(
            self.rows + other.rows,
            (self.digest + other.digest) % UINT64,
            (self.order_digest + other.order_digest) % UINT64,
            (self.row_id_sum + other.row_id_sum) % UINT64,
        )

    def signed(self) -> dict[str, int]:
        """As bigints, by name."""
        values = [self.rows, self.digest, self.order_digest, self.row_id_sum]
        found = np.array(values, np.uint64).view(np.int64).tolist()
        return dict(zip(DIGESTS, found, strict=True))


def read_back(url: str, schema: pa.Schema) -> tuple[int, list[int], Digests]:
    """Reads a shard with its pages' checksums verified.

    Args:
        schema: the stored columns.

    Returns:
        Size in bytes, rows by row group, and digests of what was read.
    """
    fs, path = fsspec.core.url_to_fs(url)
    sums, groups, done = Digests(), [], 0
    with pq.ParquetFile(path, filesystem=fs, page_checksum_verification=True) as file:
        for number in range(file.num_row_groups):
            table = file.read_row_group(number, schema.names, use_threads=False)
            sums += digests_of(table, done, schema)
            groups.append(file.metadata.row_group(number).num_rows)
            done += groups[-1]
    return fs.size(path), groups, sums


def digests_of(table: pa.Table, first: int, schema: pa.Schema) -> Digests:
    """Of rows, the first of which stands at place `first` of its file."""
    columns = [whole(table[field.name]) for field in schema]
    # The hash skips nulls, so where they stand is hashed too.
    nulls = [
        column.is_null() for column, field in zip(columns, schema, strict=True) if field.nullable
    ]
    rows = xxhash64_of_rows([*columns, *nulls])
    places = pa.array(np.arange(first, first + len(rows)))
    in_order = xxhash64_of_rows([pa.array(rows), places])
    ids = xxhash64_of_rows([whole(table[ROW_ID])])
    return Digests(len(rows), *(int(x.view(np.uint64).sum()) for x in (rows, in_order, ids)))
