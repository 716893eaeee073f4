"""Manifests: what a run wrote, shard by shard, so that no reader opens footers to plan.

One Parquet file a run, `<examples>/_manifests/<run>.parquet`, with one row for each shard. The
manifest of a table version is the rows of all manifests whose shards that version holds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.base.errors import DataRefused

UINT64 = 2**64
MANIFESTS = "_manifests"

_SCHEMA = pa.schema(
    [
        ("ds", pa.string()),
        ("split", pa.string()),
        ("number", pa.int32()),
        ("path", pa.string()),
        ("bytes", pa.int64()),
        ("row_group_rows", pa.list_(pa.int64())),
        ("digest", pa.uint64()),
        ("row_id_sum", pa.uint64()),
        ("order_digest", pa.uint64()),
    ]
)


@dataclass(frozen=True, order=True)
class Shard:
    """One Parquet file of examples.

    Attributes:
        ds, split, number: its place; shards are ordered by it, never by path.
        path: relative to the examples table.
        bytes: size of the file.
        row_group_rows: row count of each row group, in file order.
        digest: of the rows' data columns as a set: sum mod 2^64 of each row's 64-bit hash.
        row_id_sum: sum mod 2^64 of hash(row_id), for the row ledger of an epoch.
        order_digest: of the rows in their order: sum mod 2^64 of hash(row's hash, row's place).
    """

    ds: str
    split: str
    number: int
    path: str
    bytes: int
    row_group_rows: tuple[int, ...]
    digest: int
    row_id_sum: int
    order_digest: int = 0

    @property
    def rows(self) -> int:
        return sum(self.row_group_rows)

    @property
    def run(self) -> str:
        """The run that wrote it; its folder is the first part of the path, `run=...`."""
        return self.run_of(self.path)

    @staticmethod
    def run_of(path: str) -> str:
        return path.split("/", 1)[0].removeprefix("run=")


def manifest_url(table_url: str, run: str) -> str:
    return f"{table_url}/{MANIFESTS}/{run}.parquet"


def write_manifest(table_url: str, run: str, shards: Iterable[Shard]) -> None:
    """Writes a run's manifest in one piece; a reader sees none of it before the run's commit."""
    rows = [{name: getattr(shard, name) for name in _SCHEMA.names} for shard in sorted(shards)]
    fs, path = fsspec.core.url_to_fs(manifest_url(table_url, run))
    fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
    with fs.open(path, "wb") as file:
        pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), file, compression="zstd")


def read_manifest(table_url: str, run: str) -> list[Shard]:
    """A run's shards, in order of (ds, split, number).

    Raises:
        DataRefused: the manifest is missing or cannot be read.
    """
    url = manifest_url(table_url, run)
    fs, path = fsspec.core.url_to_fs(url)
    try:
        table = pq.read_table(pa.BufferReader(fs.cat_file(path)), schema=_SCHEMA)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataRefused(
            f"the manifest {url} cannot be read: {type(error).__name__}: {error}",
            f"the one that run {run} wrote",
            "restore it, or run the ETL of the run's dates again",
        ) from error
    rows = table.to_pylist()
    return [Shard(**{**row, "row_group_rows": tuple(row["row_group_rows"])}) for row in rows]
