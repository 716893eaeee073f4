"""Undated rows of other runs: a run replaces those of the raw files that it reads, and no others.

Live files without such rows stay as they are. Of the others what is left is written again.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import SparkSession

from jobs.lake.files import LiveFile, tables_of
from jobs.lake.tables import Table
from jobs.rows.base.names import SOURCE_FILE
from jobs.stores.files import write_stream

# Of more rows, or more bytes, files are looked through by Spark's tasks.
_DRIVER_ROWS, _DRIVER_BYTES = 200_000, 64 << 20
_THREADS = 16


@dataclass(frozen=True)
class UndatedFiles:
    """Live files of undated rows.

    Attributes:
        kept: those that hold no row of a raw file that is read.
        replaced: whether there are others.
    """

    kept: tuple[LiveFile, ...]
    replaced: bool


def undated_files(
    spark: SparkSession,
    table: Table,
    partition: Mapping[str, str],
    read: Collection[str],
    url: str,
) -> UndatedFiles:
    """Looks for rows of raw files that are read; writes what is left of files that hold some.

    Args:
        partition: of undated rows.
        read: paths of the raw files.
        url: of the folder to write to.
    """
    live = [f for f in (table.files() if table.exists() else []) if f.partition == partition]
    wanted = sorted(read)
    with ThreadPoolExecutor(_THREADS) as threads:
        near = list(threads.map(partial(_may_hold, table.url, wanted), live))
    looked = [file for file, is_near in zip(live, near, strict=True) if is_near]
    work = partial(_written_without, table.url, wanted, url)
    numbered = list(enumerate(file.path for file in looked))
    rows, size = sum(file.rows for file in looked), sum(file.bytes for file in looked)
    if rows <= _DRIVER_ROWS and size <= _DRIVER_BYTES:
        holds = list(map(work, numbered))
    else:
        holds = spark.sparkContext.parallelize(numbered, len(numbered)).map(work).collect()
    gone = {file.path for file, held in zip(looked, holds, strict=True) if held}
    return UndatedFiles(tuple(file for file in live if file.path not in gone), bool(gone))


def _may_hold(url: str, read: Sequence[str], file: LiveFile) -> bool:
    """Whether one of some raw files lies between the first and the last of a row group's."""
    fs, root = fsspec.core.url_to_fs(url)
    with fs.open(f"{root}/{file.path}", "rb") as opened:
        footer = pq.read_metadata(opened)
    for number in range(footer.num_row_groups):
        group = footer.row_group(number)
        columns = (group.column(place) for place in range(group.num_columns))
        found = next(c for c in columns if c.path_in_schema == SOURCE_FILE).statistics
        if found is None or not found.has_min_max:
            return True
        place = bisect_left(read, found.min)
        if place < len(read) and read[place] <= found.max:
            return True
    return False


def _written_without(url: str, read: Sequence[str], to: str, numbered: tuple[int, str]) -> bool:
    """Whether a live file holds rows of some raw files; writes its other rows where it does."""
    number, path = numbered
    wanted = pa.array(read, pa.string())
    source = f"{url}/{path}"
    others = [_others(table, wanted) for table in tables_of(source, [SOURCE_FILE])]
    if all(pc.all(own, min_count=0).as_py() for own in others):
        return False
    if any(pc.any(own, min_count=0).as_py() for own in others):
        schema = _schema(source)
        with (
            write_stream(f"{to}/others-{number}.parquet") as file,
            pq.ParquetWriter(file, schema, compression="zstd") as writer,
        ):
            for table in tables_of(source, schema.names):
                writer.write_table(table.filter(_others(table, wanted)).cast(schema))
    return True


def _others(table: pa.Table, wanted: pa.Array) -> pa.ChunkedArray:
    """Whether each row is of none of the wanted raw files."""
    return pc.invert(pc.is_in(table[SOURCE_FILE], value_set=wanted))


def _schema(url: str) -> pa.Schema:
    fs, path = fsspec.core.url_to_fs(url)
    with fs.open(path, "rb") as file:
        return pq.read_schema(file).remove_metadata()
