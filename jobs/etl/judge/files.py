"""Judged rows in Parquet files of a run that no commit ever names: written, and scanned again.

Later steps read them several times, each the columns that it needs, texts as dictionaries. Nothing
of a date is held in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import attrgetter
from types import TracebackType
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark import Broadcast
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import StructType

from jobs.base.workers import in_workers
from jobs.rows.base.arrays import whole
from schemas.dataset import ROW_ID

# From Arrow tables to Arrow batches; a step sees all tables of its task.
Step = Callable[[Iterator[pa.Table]], Iterator[pa.RecordBatch]]

# A dictionary is shared by a row group: the larger, the fewer values are looked at twice.
_GROUP_ROWS, _GROUP_BYTES = 262_144, 128 << 20
_DICTIONARY_BYTES = 64 << 20
# A Python task costs about as much as a few thousand rows.
_ROWS_PER_TASK = 1_000_000
# Patches: rows that are left out of a file of judged rows, or have another row id.
PATCHES = "patches"
FILE, ROW_NUMBER, NEW_ID = "file", "row", "new_id"


@dataclass(frozen=True, order=True)
class JudgedFile:
    """A file of rows: its number, its path below the run's folder, rows by row group, and the bytes
    that all its rows take in memory."""

    number: int
    path: str
    row_group_rows: tuple[int, ...]
    bytes: int

    @property
    def rows(self) -> int:
        return sum(self.row_group_rows)


@dataclass(frozen=True)
class ValidRows:
    """The valid rows of a run.

    Attributes:
        url: of the folder that holds the files, readable by every executor.
        patches: whether the folder has patches: rows that are left out, or have another row id.
    """

    spark: SparkSession
    url: str
    files: tuple[JudgedFile, ...]
    patches: bool = False

    @property
    def count(self) -> int:
        """Rows, before patches."""
        return sum(file.rows for file in self.files)

    def in_arrow(self, columns: Sequence[str], step: Step, schema: StructType | str) -> DataFrame:
        """What `step` makes of some columns of the rows, in tables of a row group at most.

        Each task gets a stretch of the rows, all of about one length. A row group in which one
        ends and the next one begins is read by both.
        """
        enough = max(self.spark.sparkContext.defaultParallelism, self.count // _ROWS_PER_TASK)
        tasks = max(1, min(self.count, enough))
        shared = self.spark.sparkContext.broadcast((self.url, self.files, self.patches))
        work = partial(_scanned, shared, tasks, tuple(columns), step)
        return in_workers(self.spark.range(0, tasks, 1, tasks), work, schema)


Shared = tuple[str, tuple[JudgedFile, ...], bool]


@dataclass(frozen=True)
class _Stretch:
    """Some rows of a row group: those from place `start` to `stop` in their file.

    Attributes:
        first: the place of the group's first row.
    """

    file: JudgedFile
    group: int
    first: int
    start: int
    stop: int


def _scanned(
    shared: Broadcast[Shared],
    tasks: int,
    columns: Sequence[str],
    step: Step,
    numbers: Iterator[pa.RecordBatch],
) -> Iterator[pa.RecordBatch]:
    """The step on the task's stretch of the rows."""
    url, files, patches = shared.value
    own = (
        stretch
        for batch in numbers
        for number in batch.column(0).to_pylist()
        for stretch in _stretches(files, number, tasks)
    )
    return step(_tables(url, own, patches, columns))


def _stretches(files: Sequence[JudgedFile], number: int, tasks: int) -> Iterator[_Stretch]:
    """What the task of this number reads, when the files' rows are cut into stretches."""
    total = sum(file.rows for file in files)
    low, high = total * number // tasks, total * (number + 1) // tasks
    before = 0
    for file in files:
        first = 0
        for group, rows in enumerate(file.row_group_rows):
            start, stop = max(first, low - before), min(first + rows, high - before)
            if start < stop:
                yield _Stretch(file, group, first, start, stop)
            first += rows
        before += file.rows


def _tables(
    url: str,
    stretches: Iterable[_Stretch],
    patches: bool,
    columns: Sequence[str],
) -> Iterator[pa.Table]:
    fs, root = fsspec.core.url_to_fs(url)
    all_own = list(stretches)
    patch_of = _patches(fs, root, {one.file.number for one in all_own}) if patches else {}
    for file, own in groupby(all_own, attrgetter("file")):
        patch = patch_of.get(file.number)
        with pq.ParquetFile(f"{root}/{file.path}", filesystem=fs) as opened:
            for one in own:
                table = opened.read_row_group(one.group, list(columns), use_threads=False)
                table = table.slice(one.start - one.first, one.stop - one.start)
                if patch is not None:
                    table = _patched(table, patch, one.start)
                yield table.select(list(columns))


def _patches(fs: Any, root: str, numbers: Collection[int]) -> dict[int, pa.Table]:
    """The patches of some files, by their numbers, each file of patches read once; nothing of a
    file that has none."""
    of_files = [(FILE, "in", numbers)]
    found = [
        pq.read_table(path, filesystem=fs, filters=of_files, partitioning=None)
        for path in fs.glob(f"{root}/{PATCHES}/*.parquet")
    ]
    table = pa.concat_tables(found) if found else pa.table({FILE: pa.array([], pa.int64())})
    return {
        number: table.filter(pc.equal(table[FILE], number))
        for number in pc.unique(table[FILE]).to_pylist()
    }


def _patched(table: pa.Table, patch: pa.Table, first: int) -> pa.Table:
    """The table with other row ids, and without the rows that the patch leaves out.

    Args:
        first: the place in its file of the table's first row.
    """
    places = patch[ROW_NUMBER].to_numpy() - first
    inside = (places >= 0) & (places < table.num_rows)
    places, patch = places[inside], patch.filter(pa.array(inside))
    new = whole(patch[NEW_ID])
    known = np.asarray(new.is_valid())
    if ROW_ID in table.column_names and known.any():
        ids = table[ROW_ID].to_numpy().copy()
        ids[places[known]] = new.drop_null().to_numpy()
        table = table.set_column(table.column_names.index(ROW_ID), ROW_ID, pa.array(ids))
    kept = np.ones(table.num_rows, bool)
    kept[places[~known]] = False
    return table.filter(pa.array(kept))


class RowsWriter:
    """A task's file of rows, made at the first of them."""

    def __init__(self, url: str, path: str) -> None:
        self.path = path
        self.row_group_rows: list[int] = []
        self._url = url
        self._held: list[pa.Table] = []
        self._rows = self._bytes = self._all_bytes = 0
        self._file: Any = None
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> RowsWriter:
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
            self._all_bytes += table.nbytes
            # Twice a group, so that no small rest remains.
            if self._rows >= 2 * _GROUP_ROWS or self._bytes >= 2 * _GROUP_BYTES:
                self._flush(self._rows // 2)

    def file(self, number: int) -> JudgedFile:
        return JudgedFile(number, self.path, tuple(self.row_group_rows), self._all_bytes)

    def _flush(self, rows: int) -> None:
        """Writes the first rows as a row group."""
        if not rows:
            return
        held = pa.concat_tables(self._held).unify_dictionaries()
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
            use_dictionary=[field.name for field in schema if pa.types.is_dictionary(field.type)],
            dictionary_pagesize_limit=_DICTIONARY_BYTES,
            write_statistics=False,
        )
