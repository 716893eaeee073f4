"""Digests: what a shard holds, read back from the file that was written.

Sums of 64-bit hashes of its rows, as Spark's `xxhash64` gives them: one of the rows as a set, one
of the rows in their places, one of the row ids. Rows of numbers are hashed in Python workers, which
takes a third of the time; texts, lists and images by Spark.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import partial
from itertools import groupby, pairwise
from operator import itemgetter

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark import Broadcast
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from jobs.base.xxhash import hashes_as_numbers, xxhash64_of_rows
from jobs.etl.names import DS, SPLIT
from jobs.lake.files import NewFile
from jobs.lake.manifest import UINT64
from schemas.dataset import ROW_ID, Dataset
from schemas.stored import arrow_schema

_NAMES = ("rows", "digest", "order_digest", "row_id_sum")
_FOUND = ", ".join(f"{name} bigint" for name in ("file", *_NAMES))
SHARD = "shard"


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


Found = Iterator[tuple[int, Digests]]


def digests(
    spark: SparkSession, dataset: Dataset, folder: str, files: Sequence[NewFile]
) -> list[Digests]:
    """Of each of the files of a run's folder."""
    schema = arrow_schema(dataset.stored_columns())
    by_workers = all(hashes_as_numbers(kind) for kind in schema.types)
    way: Callable[..., Found] = _by_workers if by_workers else _by_spark
    found = [Digests() for _ in files]
    for number, sums in way(spark, dataset, folder, files):
        found[number] += sums
    return found


def _by_workers(
    spark: SparkSession, dataset: Dataset, folder: str, files: Sequence[NewFile]
) -> Found:
    groups = [(n, g) for n, file in enumerate(files) for g in range(len(file.row_group_rows))]
    tasks = max(1, min(len(groups), 2 * spark.sparkContext.defaultParallelism))
    ends = [len(groups) * task // tasks for task in range(tasks + 1)]
    parts = [groups[start:end] for start, end in pairwise(ends)]
    nullable = {column.name: column.nullable for column in dataset.stored_columns()}
    shared = spark.sparkContext.broadcast((list(files), parts))
    work = partial(_read_back, folder, shared, nullable)
    for row in spark.range(0, tasks, 1, tasks).mapInArrow(work, _FOUND).collect():
        yield row["file"], Digests(*(row[name] % UINT64 for name in _NAMES))


def _read_back(
    folder: str,
    shared: Broadcast[tuple[list[NewFile], list[list[tuple[int, int]]]]],
    nullable: Mapping[str, bool],
    numbers: Iterable[pa.RecordBatch],
) -> Iterator[pa.RecordBatch]:
    """The sums over the row groups of some parts, a row a file."""
    files, parts = shared.value
    fs, root = fsspec.core.url_to_fs(folder.rsplit("/", 1)[0])
    groups = [pair for batch in numbers for n in batch.column(0).to_pylist() for pair in parts[n]]
    for number, own in groupby(groups, key=itemgetter(0)):
        file, sums = files[number], Digests()
        firsts = np.cumsum([0, *file.row_group_rows])
        found = pq.ParquetFile(
            f"{root}/{file.path}", filesystem=fs, page_checksum_verification=True
        )
        with found as parquet:
            for _, group in own:
                table = parquet.read_row_group(
                    group, [*nullable], use_threads=False
                ).combine_chunks()
                sums += _sums(table, int(firsts[group]), nullable)
        signed = np.array(astuple(sums), np.uint64).view(np.int64)
        columns = [pa.array([value], pa.int64()) for value in (number, *signed.tolist())]
        yield pa.RecordBatch.from_arrays(columns, ["file", *_NAMES])


def _sums(table: pa.Table, first: int, nullable: Mapping[str, bool]) -> Digests:
    """Of a row group whose first row stands at place `first` of its file."""
    columns = [table[name].chunk(0) for name in nullable]
    # The hash skips nulls, so where they stand is hashed too.
    nulls = [table[name].chunk(0).is_null() for name, may in nullable.items() if may]
    rows = xxhash64_of_rows([*columns, *nulls])
    places = pa.array(np.arange(first, first + len(rows)))
    in_order = xxhash64_of_rows([pa.array(rows), places])
    ids = xxhash64_of_rows([table[ROW_ID].chunk(0)])
    return Digests(len(rows), *(int(x.view(np.uint64).sum()) for x in (rows, in_order, ids)))


def _by_spark(
    spark: SparkSession, dataset: Dataset, folder: str, files: Sequence[NewFile]
) -> Found:
    names = [column.name for column in dataset.stored_columns()]
    schema = dataset.examples_schema().add(SHARD, "string")
    written = spark.read.schema(schema).option("basePath", folder).parquet(folder)
    nulls = [F.col(c.name).isNull() for c in dataset.stored_columns() if c.nullable]
    place = [DS, SPLIT, SHARD]
    hashed = written.select(
        *place,
        ROW_ID,
        F.xxhash64(*names, *nulls).alias("row"),
        F.col("_metadata.row_index").alias("place"),
    )
    sums = hashed.groupBy(*place).agg(
        F.count(F.lit(1)).alias("rows"),
        F.sum("row").alias("digest"),
        F.sum(F.xxhash64("row", "place")).alias("order_digest"),
        F.sum(F.xxhash64(ROW_ID)).alias("row_id_sum"),
    )
    numbers = {
        (*(file.partition[name] for name in (DS, SPLIT)), shard_of(file)): n
        for n, file in enumerate(files)
    }
    # One row a shard.
    for row in sums.collect():
        number = numbers[tuple(row[name] for name in place)]
        yield number, Digests(*(row[name] % UINT64 for name in _NAMES))


def shard_of(file: NewFile) -> str:
    """A shard's number, which is a level of its path."""
    return file.path.split(f"/{SHARD}=", 1)[1].split("/", 1)[0]
