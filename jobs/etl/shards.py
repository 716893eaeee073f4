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
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import to_arrow_schema

from jobs.etl.digests import SHARD, digests, shard_of
from jobs.etl.exchange import arrived, exchanged, opened
from jobs.etl.layout import Layout
from jobs.etl.names import DS, SPLIT
from jobs.lake.files import NewFile
from jobs.lake.manifest import Shard
from jobs.lake.store import write_stream, write_whole
from jobs.lake.tables import Table
from schemas.dataset import ROW_ID, Dataset, struct_type
from schemas.stored import arrow_schema

# A task writes one after the other.
_SHARDS_PER_TASK = 8


def stage_shards(
    sent: DataFrame,
    dataset: Dataset,
    table: Table,
    run: str,
    layout: Layout,
    row_group_rows: int,
) -> list[NewFile]:
    """Writes the shards into the run's folder; nothing is visible yet.

    Args:
        sent: rows as `jobs.etl.layout` sends them.
        row_group_rows: rows a row group at most.
    """
    url = table.fresh_folder(run)
    total, most = len(layout.shards), 4 * sent.sparkSession.sparkContext.defaultParallelism
    tasks = max(1, min(total, most), -(-total // _SHARDS_PER_TASK))
    folders = tuple(f"{DS}={ds}/{SPLIT}={split}/{SHARD}={n}" for ds, split, n in layout.shards)
    schema = arrow_schema(dataset.stored_columns())
    writer = _Writer(url, folders, schema, dataset.key, row_group_rows)
    exchanged(sent, tasks).mapInArrow(writer, "path string").collect()
    return table.staged(run, (DS, SPLIT))


@dataclass(frozen=True)
class _Writer:
    """A task's parcels to files, a shard a file, in a Python worker."""

    url: str
    folders: tuple[str, ...]
    schema: pa.Schema
    key: tuple[str, ...]
    row_group_rows: int

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for number, contents in arrived(batches):
            parts = opened(contents, self.schema)
            path = f"{self.folders[number]}/part-0.parquet"
            with write_stream(f"{self.url}/{path}") as file, self._opened(file) as writer:
                for group in _groups(parts, self.key, self.row_group_rows):
                    writer.write_table(group, row_group_size=self.row_group_rows)
            yield pa.RecordBatch.from_arrays([pa.array([path])], ["path"])

    def _opened(self, file: Any) -> pq.ParquetWriter:
        return pq.ParquetWriter(
            file,
            self.schema,
            compression="zstd",
            # Row ids differ, so a dictionary of them would only be in the way.
            use_dictionary=[name for name in self.schema.names if name != ROW_ID],
            write_page_checksum=True,
        )


def _groups(parts: Sequence[pa.RecordBatch], key: Sequence[str], size: int) -> Iterator[pa.Table]:
    """The rows in order of their row ids, `size` a table, the last one shorter.

    Args:
        parts: each in this order, so that a table is made of a stretch of each.
    """
    ends = np.cumsum([part.num_rows for part in parts])
    starts = ends - [part.num_rows for part in parts]
    order = _order(parts, key)
    for start in range(0, len(order), size):
        rows = order[start : start + size]
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


def verified_shards(
    spark: SparkSession, dataset: Dataset, table: Table, run: str, files: Sequence[NewFile]
) -> list[Shard]:
    """Reads back what was written: rows and content digests of each shard, for the manifest."""
    folder, shards = f"{table.url}/run={run}", []
    found = digests(spark, dataset, folder, files)
    assert len({(*file.partition.values(), shard_of(file)) for file in files}) == len(files)
    for file, read in zip(files, found, strict=True):
        assert read.rows == file.rows, f"{file.path}: footer {file.rows}, read {read.rows}"
        shards.append(
            Shard(
                ds=file.partition[DS],
                split=file.partition[SPLIT],
                number=int(shard_of(file)),
                path=file.path,
                bytes=file.bytes,
                row_group_rows=file.row_group_rows,
                digest=read.digest,
                row_id_sum=read.row_id_sum,
                order_digest=read.order_digest,
            )
        )
    if dataset.tensors or dataset.lists:
        _describe_for_petastorm(dataset, folder, shards)
    return sorted(shards)


def _describe_for_petastorm(dataset: Dataset, folder: str, shards: Sequence[Shard]) -> None:
    """Lets `petastorm.make_reader` open the run's folder. We never read it back."""
    from jobs.petastorm_arrow import common_metadata

    schema = to_arrow_schema(struct_type((c.name, c.spark_type) for c in dataset.stored_columns()))
    row_groups = {shard.path.split("/", 1)[1]: len(shard.row_group_rows) for shard in shards}
    content = common_metadata(dataset, schema, (DS, SPLIT), row_groups)
    write_whole(f"{folder}/_common_metadata", content)
