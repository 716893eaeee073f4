"""Kept rows: what judging found, in Parquet files of a run that no commit ever names.

Later steps read them several times. Python workers read the columns that they need from the files
themselves, texts as dictionaries: Spark would take ten times as long to write such files, and as
long again to hand their rows over. Nothing of a date is held in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark import Broadcast, TaskContext
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import StructType

from jobs.etl.names import SPLIT

# From Arrow tables to Arrow batches; a step sees all tables of its task.
Step = Callable[[Iterator[pa.Table]], Iterator[pa.RecordBatch]]

# A dictionary is shared by a row group: the larger, the fewer values are looked at twice.
_GROUP_ROWS, _GROUP_BYTES = 262_144, 128 << 20
_DICTIONARY_BYTES = 64 << 20
# A Python task costs about as much as a few thousand rows, and merges what it counted.
_ROWS_PER_TASK = 2_500_000
STAGED = "path string, row_group_rows array<bigint>"


@dataclass(frozen=True, order=True)
class KeptFile:
    """A file of kept rows: path below the run's folder, rows by row group."""

    path: str
    row_group_rows: tuple[int, ...]


@dataclass(frozen=True)
class Kept:
    """Rows in files, perhaps those of one split alone.

    Attributes:
        url: of the folder that holds the files, readable by every executor.
        schema: of the rows.
        splits: whose rows these are; None: all rows, the refused ones too.
    """

    spark: SparkSession
    url: str
    files: tuple[KeptFile, ...]
    schema: StructType
    splits: tuple[str, ...] | None = None

    def rows(self) -> DataFrame:
        """As Spark reads them."""
        if not self.files:
            return self.spark.createDataFrame([], self.schema)
        paths = [f"{self.url}/{file.path}" for file in self.files]
        rows = self.spark.read.schema(self.schema).parquet(*paths)
        return rows if self.splits is None else rows.where(rows[SPLIT].isin(*self.splits))

    @property
    def count(self) -> int:
        """Rows of all splits."""
        return sum(sum(file.row_group_rows) for file in self.files)

    def of_splits(self, *splits: str) -> Kept:
        return replace(self, splits=splits)

    def in_arrow(self, columns: Sequence[str], step: Step, schema: StructType | str) -> DataFrame:
        """What `step` makes of the rows, a row group a table; texts come as dictionaries."""
        groups = [(f.path, n) for f in self.files for n in range(len(f.row_group_rows))]
        enough = max(self.spark.sparkContext.defaultParallelism, self.count // _ROWS_PER_TASK)
        tasks = max(1, min(len(groups), enough))
        texts = tuple(f.name for f in self.schema if f.dataType.simpleString() == "string")
        shared = self.spark.sparkContext.broadcast(groups)
        work = partial(_from_files, self.url, shared, tasks, columns, texts, self.splits, step)
        return self.spark.range(0, tasks, 1, tasks).mapInArrow(work, schema)


def in_arrow(
    rows: DataFrame | Kept, columns: Sequence[str], step: Step, schema: StructType | str
) -> DataFrame:
    """What `step` makes of some columns of the rows, in Python workers."""
    if isinstance(rows, Kept):
        return rows.in_arrow(columns, step, schema)
    return rows.select(*columns).mapInArrow(partial(_from_batches, step), schema)


def _from_batches(step: Step, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    return step(pa.Table.from_batches([batch]) for batch in batches)


def _from_files(
    url: str,
    groups: Broadcast[list[tuple[str, int]]],
    tasks: int,
    columns: Sequence[str],
    texts: Sequence[str],
    splits: Sequence[str] | None,
    step: Step,
    numbers: Iterator[pa.RecordBatch],
) -> Iterator[pa.RecordBatch]:
    """The step on every `tasks`-th row group, from this task's number on."""
    read = list(dict.fromkeys([*columns, *([SPLIT] if splits is not None else [])]))

    def tables() -> Iterator[pa.Table]:
        fs, root = fsspec.core.url_to_fs(url)
        for number in (n for batch in numbers for n in batch.column(0).to_pylist()):
            for path, group in groups.value[number::tasks]:
                found = pq.ParquetFile(f"{root}/{path}", filesystem=fs, read_dictionary=texts)
                with found as file:
                    table = file.read_row_group(group, read, use_threads=False)
                if splits is not None:
                    of_split = pc.cast(table[SPLIT], pa.string())
                    table = table.filter(pc.is_in(of_split, value_set=pa.array(splits)))
                yield table.select(list(columns))

    return step(tables())


def keep(rows: DataFrame, url: str) -> Kept:
    """Writes rows into files below a folder."""
    staged = rows.mapInArrow(partial(_written, url), STAGED)
    return Kept(rows.sparkSession, url, kept_files(staged), rows.schema)


def kept_files(staged: DataFrame) -> tuple[KeptFile, ...]:
    """The files that tasks wrote: `path` and `row_group_rows`, a row a file."""
    found = [KeptFile(row["path"], tuple(row["row_group_rows"])) for row in staged.collect()]
    return tuple(sorted(found, key=lambda file: file.path))


def _written(url: str, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    with KeptWriter(url, "judged") as writer:
        for batch in batches:
            writer.add(pa.Table.from_batches([batch]))
    yield staged_batch([writer])


class KeptWriter:
    """A task's file, made at the first row; of each attempt its own, so that none meets another."""

    def __init__(self, url: str, name: str) -> None:
        context = TaskContext.get()
        assert context is not None
        self.path = f"{name}-{context.partitionId()}-{context.taskAttemptId()}.parquet"
        self.row_group_rows: list[int] = []
        self._url = url
        self._held: list[pa.Table] = []
        self._rows = self._bytes = 0
        self._file: Any = None
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> KeptWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._flush(self._rows)
        if self._writer is not None:
            self._writer.close()
            self._file.close()

    def add(self, table: pa.Table) -> None:
        if table.num_rows:
            self._held.append(table)
            self._rows += table.num_rows
            self._bytes += table.nbytes
            # Twice a group, so that no small rest remains.
            if self._rows >= 2 * _GROUP_ROWS or self._bytes >= 2 * _GROUP_BYTES:
                self._flush(self._rows // 2)

    def _flush(self, rows: int) -> None:
        """Writes the first rows as a row group."""
        if not rows:
            return
        held = pa.concat_tables(self._held)
        table, rest = held.slice(0, rows), held.slice(rows)
        if self._writer is None:
            self._writer = self._opened(table.schema)
        self._writer.write_table(table, row_group_size=table.num_rows)
        self.row_group_rows.append(table.num_rows)
        self._held, self._rows = [rest], rest.num_rows
        self._bytes = self._bytes * rest.num_rows // held.num_rows

    def _opened(self, schema: pa.Schema) -> pq.ParquetWriter:
        fs, root = fsspec.core.url_to_fs(self._url)
        fs.makedirs(root, exist_ok=True)
        self._file = fs.open(f"{root}/{self.path}", "wb")
        return pq.ParquetWriter(
            self._file,
            schema,
            compression="lz4",
            use_dictionary=[field.name for field in schema if pa.types.is_string(field.type)],
            dictionary_pagesize_limit=_DICTIONARY_BYTES,
            write_statistics=False,
        )


def staged_batch(writers: Sequence[KeptWriter]) -> pa.RecordBatch:
    """What a task says of its files."""
    made = [writer for writer in writers if writer.row_group_rows]
    return pa.RecordBatch.from_arrays(
        [
            pa.array([writer.path for writer in made], pa.string()),
            pa.array([writer.row_group_rows for writer in made], pa.list_(pa.int64())),
        ],
        ["path", "row_group_rows"],
    )
