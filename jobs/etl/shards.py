"""Shards: encoded rows to Parquet files whose content depends on the rows alone.

A row's shard follows from its row id and the number of rows of its (ds, split); within a shard
rows are ordered by row id, a hash, so that a shard is a shuffled sample. How many tasks write, and
in which order rows come to them, changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import to_arrow_schema

from jobs.etl.names import DS, SPLIT
from jobs.etl.packing import NUMBER, Layout, Packing
from jobs.lake import NewFile, Table
from jobs.manifest import UINT64, Shard
from jobs.store import write_stream, write_whole
from schemas.dataset import ROW_ID, Dataset, struct_type

SHARD = "shard"
_LAYOUT = (DS, SPLIT, SHARD)
# A task writes one after the other.
_SHARDS_PER_TASK = 8


def stage_shards(
    packed: DataFrame,
    dataset: Dataset,
    table: Table,
    run: str,
    layout: Layout,
    row_group_rows: int,
) -> list[NewFile]:
    """Writes the shards into the run's folder; nothing is visible yet.

    Args:
        packed: rows as `jobs.etl.packing` packs them for the layout.
        row_group_rows: rows a row group at most.
    """
    url, packing = f"{table.url}/run={run}", Packing.of(dataset)
    fs, root = fsspec.core.url_to_fs(url)
    if fs.exists(root):
        fs.rm(root, recursive=True)
    total, most = len(layout.shards), 4 * packed.sparkSession.sparkContext.defaultParallelism
    num_tasks = max(1, min(total, most), -(-total // _SHARDS_PER_TASK))
    # Shards are dealt to the tasks in turn: hashed, some tasks would get many.
    task = F.pmod(F.col(NUMBER), F.lit(num_tasks)).cast("int")
    # By shard and row id, mostly decided by one long, which Spark's sort holds beside its pointers.
    place = F.shiftleft(F.col(NUMBER).cast("long"), 40) + F.shiftright(ROW_ID, 24)
    ordered = packed.repartitionById(num_tasks, task).sortWithinPartitions(
        place, NUMBER, ROW_ID, *dataset.key
    )
    folders = tuple(f"{DS}={ds}/{SPLIT}={split}/{SHARD}={n}" for ds, split, n in layout.shards)
    writer = _Writer(url, folders, packing, row_group_rows)
    ordered.select(*packing.columns).mapInArrow(writer, "path string").collect()
    return table.staged(run, (DS, SPLIT))


@dataclass(frozen=True)
class _Writer:
    """A task's sorted rows to files, a shard a file, in a Python worker."""

    url: str
    folders: tuple[str, ...]
    packing: Packing
    row_group_rows: int

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        parts = _Ahead(_by_number(batches))
        while (number := parts.number) is not None:
            path = f"{self.folders[number]}/part-0.parquet"
            with write_stream(f"{self.url}/{path}") as file:
                self._write(file, parts.of(number))
            yield pa.RecordBatch.from_arrays([pa.array([path])], ["path"])

    def _write(self, file: object, parts: Iterator[pa.Table]) -> None:
        writer = None
        for rows in _groups(parts, self.row_group_rows):
            table = self.packing.unpacked(rows)
            if writer is None:
                # Row ids differ, so a dictionary of them would only be in the way.
                repeating = [name for name in table.column_names if name != ROW_ID]
                writer = pq.ParquetWriter(
                    file,
                    table.schema,
                    compression="zstd",
                    use_dictionary=repeating,
                    write_page_checksum=True,
                )
            writer.write_table(table, row_group_size=self.row_group_rows)
        assert writer is not None
        writer.close()


def _by_number(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[int, pa.Table]]:
    """The rows of each shard number in a batch; numbers ascend."""
    for batch in batches:
        numbers = batch.column(0).to_numpy()
        start = 0
        while start < len(numbers):
            end = int(numbers.searchsorted(numbers[start], "right"))
            yield int(numbers[start]), pa.Table.from_batches([batch.slice(start, end - start)])
            start = end


class _Ahead:
    """Parts by number, of which the next number is known before its parts are taken."""

    def __init__(self, parts: Iterator[tuple[int, pa.Table]]) -> None:
        self._parts = parts
        self._next = next(parts, None)

    @property
    def number(self) -> int | None:
        return self._next[0] if self._next is not None else None

    def of(self, number: int) -> Iterator[pa.Table]:
        while self._next is not None and self._next[0] == number:
            yield self._next[1]
            self._next = next(self._parts, None)


def _groups(parts: Iterator[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The rows in tables of `rows` rows, the last one shorter."""
    held: list[pa.Table] = []
    count = 0
    for part in parts:
        held.append(part)
        count += part.num_rows
        while count >= rows:
            table = pa.concat_tables(held)
            yield table.slice(0, rows)
            held, count = [table.slice(rows)], count - rows
    if count:
        yield pa.concat_tables(held)


def verified_shards(
    spark: SparkSession, dataset: Dataset, table: Table, run: str, files: Sequence[NewFile]
) -> list[Shard]:
    """Reads back what was written: rows and content digests of each shard, for the manifest."""
    names = [column.name for column in dataset.stored_columns()]
    schema = dataset.examples_schema().add(SHARD, "string")
    folder = f"{table.url}/run={run}"
    written = spark.read.schema(schema).option("basePath", folder).parquet(folder)
    # xxhash64 skips nulls, so where they stand is hashed too.
    nulls = [F.col(c.name).isNull() for c in dataset.stored_columns() if c.nullable]
    hashed = written.select(
        *_LAYOUT,
        ROW_ID,
        F.xxhash64(*names, *nulls).alias("row"),
        F.col("_metadata.row_index").alias("place"),
    )
    digests = hashed.groupBy(*_LAYOUT).agg(
        F.count(F.lit(1)).alias("rows"),
        F.sum("row").alias("digest"),
        F.sum(F.xxhash64("row", "place")).alias("order_digest"),
        F.sum(F.xxhash64(ROW_ID)).alias("row_id_sum"),
    )
    # One row a shard.
    found = {tuple(row[name] for name in _LAYOUT): row for row in digests.collect()}
    shards = []
    for file in files:
        number = file.path.split(f"/{SHARD}=", 1)[1].split("/", 1)[0]
        row = found.pop((file.partition[DS], file.partition[SPLIT], number))
        assert row["rows"] == file.rows, f"{file.path}: footer {file.rows}, read {row['rows']}"
        shards.append(
            Shard(
                ds=file.partition[DS],
                split=file.partition[SPLIT],
                number=int(number),
                path=file.path,
                bytes=file.bytes,
                row_group_rows=file.row_group_rows,
                digest=row["digest"] % UINT64,
                row_id_sum=row["row_id_sum"] % UINT64,
                order_digest=row["order_digest"] % UINT64,
            )
        )
    assert not found, f"shards in more than one file, or in none: {sorted(found)}"
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
