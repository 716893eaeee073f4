"""Quarantine: every refused row, with its reasons, its text and its file."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark import Broadcast
from pyspark.sql import SparkSession
from pyspark.sql.types import ArrayType, StringType, StructField, StructType

from jobs.base.workers import in_workers
from jobs.base.xxhash import xxhash64_of_rows
from jobs.etl.judge.files import JudgedFile
from jobs.etl.parcels import PARCELS, exchanged, gathered, opened, parcels, received
from jobs.etl.write.undated import undated_files
from jobs.lake.files import LiveFile, NewFile, tables_of
from jobs.lake.tables import Table
from jobs.rows.base.arrays import whole
from jobs.rows.base.groups import ChunkedRows, bytes_of_rows, cut_rows
from jobs.rows.base.names import DS, RAW, REASONS, SOURCE_FILE, UNDATED
from jobs.rows.judge.judged import REFUSED
from jobs.stores.files import write_stream

STAGE = "stage"
# Not `run`: that is a level of the folders, which Spark would take for the column.
RUN_ID = "run_id"
QUARANTINE = StructType(
    [
        StructField(REASONS, ArrayType(StringType())),
        StructField(RAW, StringType()),
        StructField(SOURCE_FILE, StringType()),
        StructField(RUN_ID, StringType()),
        StructField(STAGE, StringType()),
        StructField(DS, StringType()),
    ]
)
# A row on its way, its date with it; what is stored has the date as a partition.
_ROWS = pa.schema([*REFUSED, (RUN_ID, pa.string())])
_STORED = (REASONS, RAW, SOURCE_FILE, RUN_ID)
# More refused rows than these, or more of their bytes, go through Spark's tasks.
_DRIVER_ROWS, _DRIVER_BYTES = 200_000, 256 << 20
_GROUP_ROWS, _GROUP_BYTES = 262_144, 128 << 20
_OWN = "part-0.parquet"


@dataclass(frozen=True)
class RefusedRows:
    """Refused rows of a run.

    Attributes:
        url: of the folder that holds the files.
        read: paths of the raw files that the run read.
    """

    url: str
    files: tuple[JudgedFile, ...]
    read: frozenset[str]

    @property
    def is_small(self) -> bool:
        rows = sum(file.rows for file in self.files)
        return rows <= _DRIVER_ROWS and sum(file.bytes for file in self.files) <= _DRIVER_BYTES


@dataclass(frozen=True)
class StagedRefused:
    """What is to be done to the quarantine; nothing of it is visible yet.

    Attributes:
        files: the new ones.
        where: the partitions that are replaced.
        kept: live files of these that stay, since the run read none of their rows' raw files.
    """

    files: tuple[NewFile, ...]
    where: Mapping[str, Sequence[str]]
    kept: tuple[LiveFile, ...]

    @property
    def rows(self) -> dict[str, int]:
        """The run's rows by date, as the files' footers count them."""
        own = (file for file in self.files if file.path.endswith(f"/{_OWN}"))
        return {file.partition[DS]: file.rows for file in own}


def stage_quarantine(
    spark: SparkSession,
    refused: RefusedRows,
    table: Table,
    stage: str,
    run: str,
    dates: Collection[str],
) -> StagedRefused:
    """Writes refused rows into the run's folder, a file a date; nothing is visible yet.

    Undated rows are replaced by a run that reads the same raw files: of live files that hold such
    rows the others are written again.

    Args:
        dates: that are replaced.
    """
    url = f"{table.fresh_folder(run)}/{STAGE}={stage}"
    partition = {STAGE: stage, DS: UNDATED}
    undated = undated_files(spark, table, partition, refused.read, f"{url}/{DS}={UNDATED}")
    paths = [f"{refused.url}/{file.path}" for file in refused.files]
    if refused.is_small:
        rows = [_ROWS.empty_table(), *(table for path in paths for table in _of_run(path, run))]
        _write_days(url, pa.concat_tables(rows))
    else:
        _write_in_tasks(spark, url, paths, run)
    files = tuple(table.staged(run, [STAGE, DS]))
    if not undated.replaced and not any(file.partition[DS] == UNDATED for file in files):
        return StagedRefused(files, {STAGE: [stage], DS: sorted(dates)}, ())
    where = {STAGE: [stage], DS: [*sorted(dates), UNDATED]}
    return StagedRefused(files, where, undated.kept)


def _write_in_tasks(spark: SparkSession, url: str, paths: Sequence[str], run: str) -> None:
    tasks = min(len(paths), 4 * spark.sparkContext.defaultParallelism)
    shared = spark.sparkContext.broadcast(paths)
    sent = in_workers(spark.range(0, tasks, 1, tasks), partial(_sent, shared, tasks, run), PARCELS)
    days = spark.sparkContext.defaultParallelism
    in_workers(exchanged(sent, days), partial(_written, url), "path string").collect()


def _of_run(path: str, run: str) -> Iterator[pa.Table]:
    """A file's rows, a row group a table."""
    for rows in tables_of(path, REFUSED.names):
        yield rows.cast(REFUSED).append_column(RUN_ID, pa.repeat(run, rows.num_rows)).cast(_ROWS)


def _sent(
    shared: Broadcast[Sequence[str]], tasks: int, run: str, batches: Iterable[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Rows by a hash of their date, those of a date together."""
    for number in (n for batch in batches for n in batch.column(0).to_pylist()):
        tables = (table for path in shared.value[number::tasks] for table in _of_run(path, run))
        for table in gathered(tables):
            if table.num_rows:
                days = xxhash64_of_rows([whole(table[DS])]) & 0x7FFF
                yield from parcels(table, days.astype(np.int32))


def _written(url: str, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for _, contents in received(batches):
        paths = _write_days(url, pa.Table.from_batches(opened(contents, _ROWS)))
        yield pa.RecordBatch.from_arrays([pa.array(paths, pa.string())], ["path"])


def _write_days(url: str, rows: pa.Table) -> list[str]:
    """A file for each date of the rows, in order of their texts."""
    named = whole(pc.dictionary_encode(rows[DS]))
    by = [(name, "ascending") for name in (RAW, SOURCE_FILE)]
    order = pc.sort_indices(rows, sort_keys=by).to_numpy().astype(np.int64)
    days = named.indices.to_numpy()[order]
    stored, sizes, paths = ChunkedRows(rows.select(list(_STORED))), bytes_of_rows(rows), []
    for number, ds in enumerate(named.dictionary.to_pylist()):
        own = order[days == number]
        groups = cut_rows(sizes[own], _GROUP_ROWS, _GROUP_BYTES)
        paths.append(f"{url}/{DS}={ds}/{_OWN}")
        _write(paths[-1], (stored.take(own[group]) for group in groups))
    return paths


def _write(path: str, groups: Iterable[pa.Table]) -> None:
    """Writes row groups, each of which is made when its turn comes."""
    schema = pa.schema([_ROWS.field(name) for name in _STORED])
    with write_stream(path) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for rows in groups:
            writer.write_table(rows)
