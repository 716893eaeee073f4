"""Contributions of all dates, read where they are few by the driver, else by Spark's tasks.

Files are looked at one by one for what merges by itself (sums, buckets); counts of values of
several dates are brought together by the hash of the value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs.base.workers import in_workers
from jobs.base.xxhash import xxhash64
from jobs.etl.parcels import PARCELS, exchanged, opened, parcels, received
from jobs.lake.files import LiveFile
from jobs.lake.tables import Table
from jobs.rows.base.names import DS

if TYPE_CHECKING:
    from pyspark import Broadcast
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType

# More rows than these are read by Spark's tasks.
_DRIVER_ROWS = 10_000_000
_ROWS_PER_PART = 4_000_000
# So many rows, about 100 MB, stay in memory between one step and the next.
_KEPT_ROWS = 2_000_000
_COLUMNS = ["field", "value", "count", "nulls", "total", "total_squares", "low", "high"]
_COUNTS = pa.schema(
    [("field", pa.string()), ("value", pa.string()), ("count", pa.int64()), (DS, pa.string())]
)

# From a file's rows to rows that merge with those of other files.
Map = Callable[[pa.Table], pa.Table]
# From all counts of some values to what is asked of them.
Reduce = Callable[[pa.Table], pa.Table]
# From the rows of files, one after the other, to batches.
Step = Callable[[Iterable[pa.Table]], Iterator[pa.RecordBatch]]


@dataclass(frozen=True)
class CountHistory:
    """The contributions of a version of the table."""

    spark: SparkSession
    url: str
    files: tuple[LiveFile, ...]
    _read: dict[str, pa.Table] = field(default_factory=dict, compare=False, repr=False)

    @staticmethod
    def of(spark: SparkSession, table: Table, version: int) -> CountHistory:
        return CountHistory(spark, table.url, tuple(table.files(version)))

    def up_to(self, ds: str) -> CountHistory:
        return self.of_dates(lambda own: own <= ds)

    def of_dates(self, chosen: Callable[[str], bool]) -> CountHistory:
        files = tuple(file for file in self.files if chosen(file.partition[DS]))
        return replace(self, files=files)

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)

    @property
    def dates(self) -> list[str]:
        return sorted({file.partition[DS] for file in self.files})

    def mapped(self, step: Map, schema: pa.Schema) -> pa.Table:
        """What `step` makes of each file's rows, with their `ds`, together."""
        tables = self._each(step, schema)
        return pa.concat_tables([schema.empty_table(), *tables])

    def reduced(self, step: Map, reduce: Reduce, schema: pa.Schema) -> pa.Table:
        """What `reduce` makes of the counts of values, all of a value at once.

        Args:
            step: chooses counts of a file: `field`, `value`, `count`, `ds`.
            schema: of what `reduce` gives.
        """
        if self.rows <= _DRIVER_ROWS:
            return reduce(self.mapped(step, _COUNTS))
        from pyspark.sql.pandas.types import from_arrow_schema

        parts = -(-self.rows // _ROWS_PER_PART)
        sent = self._task_rows(partial(_sent, step, parts), PARCELS)
        tasks = min(parts, 4 * self.spark.sparkContext.defaultParallelism)
        found = in_workers(
            exchanged(sent, tasks), partial(_reduced, reduce), from_arrow_schema(schema)
        )
        return pa.table(found.toArrow()).cast(schema)

    def _each(self, step: Map, schema: pa.Schema) -> Iterable[pa.Table]:
        if self.rows > _DRIVER_ROWS:
            from pyspark.sql.pandas.types import from_arrow_schema

            work = partial(_mapped, step)
            return [
                pa.table(self._task_rows(work, from_arrow_schema(schema)).toArrow()).cast(schema)
            ]
        with ThreadPoolExecutor(8) as threads:
            return list(threads.map(lambda file: step(self._rows_of(file)), self.files))

    def _rows_of(self, file: LiveFile) -> pa.Table:
        if self.rows > _KEPT_ROWS:
            return read_file(self.url, file)
        if file.path not in self._read:
            self._read[file.path] = read_file(self.url, file)
        return self._read[file.path]

    def _task_rows(self, step: Step, schema: StructType | str) -> DataFrame:
        """What `step` makes of the files' rows, in Spark's tasks."""
        files = self.spark.sparkContext.broadcast((self.url, self.files))
        tasks = min(len(self.files), 8 * self.spark.sparkContext.defaultParallelism)
        work = partial(_of_files, files, tasks, step)
        return in_workers(self.spark.range(0, tasks, 1, tasks), work, schema)


def _of_files(
    files: Broadcast[tuple[str, tuple[LiveFile, ...]]],
    tasks: int,
    step: Step,
    numbers: Iterable[pa.RecordBatch],
) -> Iterator[pa.RecordBatch]:
    url, every = files.value
    mine = [file for b in numbers for n in b.column(0).to_pylist() for file in every[n::tasks]]
    return step(read_file(url, file) for file in mine)


def read_file(url: str, file: LiveFile) -> pa.Table:
    """A file's rows, with their `ds`."""
    fs, root = fsspec.core.url_to_fs(url)
    with fs.open(f"{root}/{file.path}", "rb") as opened_file:
        table = pq.read_table(opened_file, columns=_COLUMNS, use_threads=False)
    days = pa.repeat(pa.scalar(file.partition[DS], pa.string()), table.num_rows)
    return table.append_column(DS, days)


def _mapped(step: Map, tables: Iterable[pa.Table]) -> Iterator[pa.RecordBatch]:
    for table in tables:
        yield from step(table).to_batches()


def _sent(step: Map, parts: int, tables: Iterable[pa.Table]) -> Iterator[pa.RecordBatch]:
    for table in tables:
        rows = step(table).cast(_COUNTS)
        if rows.num_rows:
            part = xxhash64(rows["value"].combine_chunks()) % parts
            yield from parcels(rows, part.astype(np.int32))


def _reduced(reduce: Reduce, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for _, contents in received(batches):
        yield from reduce(pa.Table.from_batches(opened(contents, _COUNTS))).to_batches()


def of_fields(table: pa.Table, names: Sequence[str]) -> pa.Table:
    return table.filter(pc.is_in(table["field"], value_set=pa.array(names, pa.string())))
