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
from jobs.etl.fit.portions import VALUE, by_value, hashes_of
from jobs.etl.parcels import PARCELS, exchanged, opened, parcels, received
from jobs.lake.files import LiveFile
from jobs.lake.tables import Table
from jobs.rows.base.groups import portions
from jobs.rows.base.names import DS

if TYPE_CHECKING:
    from pyspark import Broadcast
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType

# More rows than these, or more bytes of files, are read by Spark's tasks.
_DRIVER_ROWS, _DRIVER_BYTES = 10_000_000, 256 << 20
_ROWS_PER_PART, _BYTES_PER_PART = 4_000_000, 64 << 20
# So many rows, about 100 MB, stay in memory between one step and the next.
_KEPT_ROWS, _KEPT_BYTES = 2_000_000, 32 << 20
_COLUMNS = ["field", "value", "count", "nulls", "total", "total_squares", "low", "high"]
_COUNTS = pa.schema(
    [("field", pa.string()), ("value", pa.string()), ("count", pa.int64()), (DS, pa.string())]
)

# From some of a file's rows to rows that merge with those of the others.
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
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)

    @property
    def _is_small(self) -> bool:
        return self.rows <= _DRIVER_ROWS and self.bytes <= _DRIVER_BYTES

    @property
    def dates(self) -> list[str]:
        return sorted({file.partition[DS] for file in self.files})

    def mapped(self, step: Map, schema: pa.Schema, merge: Map | None = None) -> pa.Table:
        """What `step` makes of each file's rows, with their `ds`, together.

        Args:
            merge: makes fewer rows of those of several files.
        """
        tables = self._each(step, schema, merge)
        return _together([schema.empty_table(), *tables], merge)

    def reduced(self, step: Map, reduce: Reduce, schema: pa.Schema) -> pa.Table:
        """What `reduce` makes of the counts of values, all of a value at once.

        Args:
            step: chooses counts of a file: `field`, `value`, `count`, `ds`.
            schema: of what `reduce` gives.
        """
        if self._is_small:
            return by_value(self.mapped(step, _COUNTS), reduce)
        from pyspark.sql.pandas.types import from_arrow_schema

        parts = max(-(-self.rows // _ROWS_PER_PART), -(-self.bytes // _BYTES_PER_PART))
        sent = self._task_rows(partial(_sent, step, parts), PARCELS)
        tasks = min(parts, 4 * self.spark.sparkContext.defaultParallelism)
        found = in_workers(
            exchanged(sent, tasks), partial(_reduced, reduce), from_arrow_schema(schema)
        )
        return pa.table(found.toArrow()).cast(schema)

    def _each(self, step: Map, schema: pa.Schema, merge: Map | None = None) -> Iterable[pa.Table]:
        if not self._is_small:
            from pyspark.sql.pandas.types import from_arrow_schema

            work = partial(_mapped, step, merge)
            return [
                pa.table(self._task_rows(work, from_arrow_schema(schema)).toArrow()).cast(schema)
            ]
        with ThreadPoolExecutor(8) as threads:
            found = threads.map(lambda file: _steps(step, self._rows_of(file)), self.files)
            return [table for own in found for table in own]

    def _rows_of(self, file: LiveFile) -> pa.Table:
        if self.rows > _KEPT_ROWS or self.bytes > _KEPT_BYTES:
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


def _steps(step: Map, rows: pa.Table) -> list[pa.Table]:
    return [step(part) for part in portions(rows, [VALUE])]


def _together(tables: Sequence[pa.Table], merge: Map | None) -> pa.Table:
    found = pa.concat_tables(tables)
    return merge(found) if merge is not None else found


def _mapped(step: Map, merge: Map | None, tables: Iterable[pa.Table]) -> Iterator[pa.RecordBatch]:
    if made := [part for table in tables for part in _steps(step, table)]:
        yield from _together(made, merge).to_batches()


def _sent(step: Map, parts: int, tables: Iterable[pa.Table]) -> Iterator[pa.RecordBatch]:
    for table in tables:
        for made in _steps(step, table):
            rows = made.cast(_COUNTS)
            if rows.num_rows:
                yield from parcels(rows, (hashes_of(rows["value"]) % parts).astype(np.int32))


def _reduced(reduce: Reduce, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for _, contents in received(batches):
        rows = pa.Table.from_batches(opened(contents, _COUNTS))
        yield from by_value(rows, reduce).to_batches()


def of_fields(table: pa.Table, names: Sequence[str]) -> pa.Table:
    return table.filter(pc.is_in(table["field"], value_set=pa.array(names, pa.string())))


def added_up(counts: pa.Table) -> pa.Table:
    """Counts in the last column, `rows`, each combination of the other columns' values once."""
    names = counts.column_names
    found = counts.group_by(names[:-1], use_threads=False).aggregate([("rows", "sum")])
    return found.rename_columns(names).cast(counts.schema)
