"""Shards: encoded rows to Parquet files whose content depends on the rows alone.

A row's shard follows from its row id and the number of rows of its (ds, split); within a shard
rows are ordered by row id, a hash, so that a shard is a shuffled sample. How many tasks write, and
in which order rows come to them, changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, Row
from pyspark.sql.pandas.types import to_arrow_schema

from jobs.base.workers import in_workers
from jobs.etl.parcels import exchanged, opened, received
from jobs.etl.write.digests import DIGESTS, Digests, read_back
from jobs.etl.write.layout import ShardLayout
from jobs.lake.manifest import UINT64, Shard
from jobs.lake.tables import Table
from jobs.rows.base.groups import bytes_of_rows, cut_rows
from jobs.rows.base.names import DS, SPLIT
from jobs.settings.etl import EtlSettings
from jobs.stores.files import write_stream, write_whole
from schemas.dataset import ROW_ID, Dataset, struct_type
from schemas.stored import arrow_schema

# A task writes its shards one after the other, and does all of them again when it is lost.
_ROWS_PER_TASK, _SHARDS_PER_TASK = 4_000_000, 256
SHARD = "shard"


def stage_shards(
    sent: DataFrame,
    dataset: Dataset,
    table: Table,
    run: str,
    layout: ShardLayout,
    settings: EtlSettings,
) -> list[Shard]:
    """Writes the shards into the run's folder and reads each back; nothing is visible yet.

    Args:
        sent: rows as `jobs.etl.write.layout` sends them.
        settings: say how large row groups are, and how pages are compressed.

    Returns:
        The shards in order, for the manifest.
    """
    url = table.fresh_folder(run)
    tasks = _tasks(layout, sent.sparkSession.sparkContext.defaultParallelism)
    schema = arrow_schema(dataset.stored_columns())
    files = settings.row_group_rows, settings.compression
    writer = _Writer(url, run, tuple(layout.shards), schema, dataset.key, *files)
    rows = in_workers(exchanged(sent, tasks), writer, _WRITTEN).collect()
    shards = sorted(_shard(row) for row in rows)
    if dataset.tensors or dataset.lists:
        _describe_for_petastorm(dataset, url, shards)
    return shards


def _tasks(layout: ShardLayout, cores: int) -> int:
    """Enough for all cores to end at about the same time; few, as each costs as much as a shard."""
    shards = len(layout.shards)
    asked = max(4 * cores, layout.rows // _ROWS_PER_TASK, shards // _SHARDS_PER_TASK)
    return max(1, min(shards, asked))


_WRITTEN = (
    f"{DS} string, {SPLIT} string, number int, path string, bytes bigint, "
    f"row_group_rows array<bigint>, {', '.join(f'{name} bigint' for name in DIGESTS)}"
)


def _shard(row: Row) -> Shard:
    found = Digests(*(row[name] % UINT64 for name in DIGESTS))
    groups = tuple(row["row_group_rows"])
    assert found.rows == sum(groups), f"{row['path']}: footer {sum(groups)}, read {found.rows}"
    return Shard(
        ds=row[DS],
        split=row[SPLIT],
        number=row["number"],
        path=row["path"],
        bytes=row["bytes"],
        row_group_rows=groups,
        digest=found.digest,
        row_id_sum=found.row_id_sum,
        order_digest=found.order_digest,
    )


_WRITTEN_ARROW = pa.schema(
    [
        (DS, pa.string()),
        (SPLIT, pa.string()),
        ("number", pa.int32()),
        ("path", pa.string()),
        ("bytes", pa.int64()),
        ("row_group_rows", pa.list_(pa.int64())),
        *[(name, pa.int64()) for name in DIGESTS],
    ]
)


@dataclass(frozen=True)
class _Writer:
    """A task's parcels to files, a shard a file, in a Python worker."""

    url: str
    run: str
    shards: tuple[tuple[str, str, int], ...]
    schema: pa.Schema
    key: tuple[str, ...]
    row_group_rows: int
    compression: str

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for place, contents in received(batches):
            ds, split, number = self.shards[place]
            path = f"{DS}={ds}/{SPLIT}={split}/{SHARD}={number}/part-0.parquet"
            self._write(path, opened(contents, self.schema))
            size, groups, found = read_back(f"{self.url}/{path}", self.schema)
            row = {
                DS: ds,
                SPLIT: split,
                "number": number,
                "path": f"run={self.run}/{path}",
                "bytes": size,
                "row_group_rows": groups,
                **found.signed(),
            }
            yield pa.RecordBatch.from_pylist([row], _WRITTEN_ARROW)

    def _write(self, path: str, parts: Sequence[pa.RecordBatch]) -> None:
        with write_stream(f"{self.url}/{path}") as file, self._opened(file) as writer:
            for group in ordered_tables(parts, self.key, self.row_group_rows):
                writer.write_table(group, row_group_size=self.row_group_rows)

    def _opened(self, file: Any) -> pq.ParquetWriter:
        return pq.ParquetWriter(
            file,
            self.schema,
            compression=self.compression,
            # Row ids differ, so a dictionary of them would only be in the way.
            use_dictionary=[name for name in self.schema.names if name != ROW_ID],
            write_page_checksum=True,
        )


def ordered_tables(
    parts: Sequence[pa.RecordBatch], key: Sequence[str], size: int
) -> Iterator[pa.Table]:
    """The rows in order of their row ids, `size` a table or, of large rows, what is cut by bytes.

    Args:
        parts: each in this order, so that a table is made of a stretch of each.
    """
    ends = np.cumsum([part.num_rows for part in parts])
    starts = ends - [part.num_rows for part in parts]
    order = _order(parts, key)
    sizes = np.concatenate([bytes_of_rows(part) for part in parts])
    for group in cut_rows(sizes[order], size):
        rows = order[group]
        inside = np.sort(rows)
        limits = zip(np.searchsorted(inside, starts), np.searchsorted(inside, ends), strict=True)
        stretches, shifts, count = [], np.zeros(len(parts), np.int64), 0
        for number, (low, high) in enumerate(limits):
            if low < high:
                first, length = inside[low], inside[high - 1] + 1 - inside[low]
                stretches.append(parts[number].slice(first - starts[number], length))
                shifts[number] = count - first
                count += length
        places = rows + shifts[np.searchsorted(ends, rows, side="right")]
        yield pa.Table.from_batches(stretches).combine_chunks().take(places)


def _order(parts: Sequence[pa.RecordBatch], key: Sequence[str]) -> npt.NDArray[np.int64]:
    """Places of the rows by row id, and by key where the ids of two keys are the same."""
    ids = np.concatenate([part.column(ROW_ID).to_numpy() for part in parts])
    order: npt.NDArray[np.int64] = np.argsort(ids)
    if (np.diff(ids[order]) == 0).any():
        rows = pa.Table.from_batches([part.select([ROW_ID, *key]) for part in parts])
        by = [(name, "ascending") for name in rows.column_names]
        order = pc.sort_indices(rows, sort_keys=by).to_numpy().astype(np.int64)
    return order


def _describe_for_petastorm(dataset: Dataset, folder: str, shards: Sequence[Shard]) -> None:
    """Lets `petastorm.make_reader` open the run's folder. We never read it back."""
    from jobs.petastorm_arrow import common_metadata

    schema = to_arrow_schema(struct_type((c.name, c.spark_type) for c in dataset.stored_columns()))
    row_groups = {shard.path.split("/", 1)[1]: len(shard.row_group_rows) for shard in shards}
    content = common_metadata(dataset, schema, (DS, SPLIT), row_groups)
    write_whole(f"{folder}/_common_metadata", content)
