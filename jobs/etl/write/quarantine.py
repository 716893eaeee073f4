"""Quarantine: every refused row, with its reasons, its text and its file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

import fsspec
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
from jobs.lake.files import NewFile
from jobs.lake.tables import Table
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
# More refused rows than these go through Spark's tasks.
_DRIVER_ROWS = 200_000


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
    def count(self) -> int:
        return sum(file.rows for file in self.files)


def stage_quarantine(
    spark: SparkSession, refused: RefusedRows, table: Table, stage: str, run: str
) -> list[NewFile]:
    """Writes refused rows into the run's folder, a file a date; nothing is visible yet.

    Undated rows of files that this run did not read are written again with them, since a commit
    replaces the partition `undated` whole.
    """
    url = f"{table.fresh_folder(run)}/{STAGE}={stage}"
    paths = [f"{refused.url}/{file.path}" for file in refused.files]
    held = _undated(table, stage, refused.read)
    if refused.count <= _DRIVER_ROWS:
        _write_days(url, pa.concat_tables([held, *(_of_run(path, run) for path in paths)]))
    else:
        tasks = min(len(paths), 4 * spark.sparkContext.defaultParallelism)
        shared = spark.sparkContext.broadcast(paths)
        sent = in_workers(
            spark.range(0, tasks, 1, tasks), partial(_sent, shared, tasks, run, held), PARCELS
        )
        days = spark.sparkContext.defaultParallelism
        in_workers(exchanged(sent, days), partial(_written, url), "path string").collect()
    return table.staged(run, [STAGE, DS])


def _of_run(path: str, run: str) -> pa.Table:
    fs, name = fsspec.core.url_to_fs(path)
    with fs.open(name, "rb") as file:
        rows = pq.read_table(file, columns=REFUSED.names, use_threads=False).cast(REFUSED)
    return rows.append_column(RUN_ID, pa.repeat(pa.scalar(run), rows.num_rows)).cast(_ROWS)


def _undated(table: Table, stage: str, read: Collection[str]) -> pa.Table:
    """The undated rows of the table that come from other files than these."""
    fs, root = fsspec.core.url_to_fs(table.url)
    found = [_ROWS.empty_table()]
    wanted = {STAGE: stage, DS: UNDATED}
    for live in table.files() if table.exists() else []:
        if live.partition == wanted:
            with fs.open(f"{root}/{live.path}", "rb") as file:
                rows = pq.read_table(file, columns=list(_STORED), use_threads=False)
            days = pa.repeat(pa.scalar(UNDATED), rows.num_rows)
            rows = rows.append_column(DS, days).select(_ROWS.names).cast(_ROWS)
            ours = pc.is_in(rows[SOURCE_FILE], value_set=pa.array(list(read), pa.string()))
            found.append(rows.filter(pc.invert(ours)))
    return pa.concat_tables(found)


def _sent(
    shared: Broadcast[list[str]],
    tasks: int,
    run: str,
    held: pa.Table,
    batches: Iterable[pa.RecordBatch],
) -> Iterator[pa.RecordBatch]:
    """Rows by a hash of their date, those of a date together."""
    for number in (n for batch in batches for n in batch.column(0).to_pylist()):
        tables = (_of_run(path, run) for path in shared.value[number::tasks])
        for table in gathered(chain(tables, [held] if number == 0 else [])):
            if table.num_rows:
                days = xxhash64_of_rows([table[DS].combine_chunks()]) & 0x7FFF
                yield from parcels(table, days.astype(np.int32))


def _written(url: str, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for _, contents in received(batches):
        paths = _write_days(url, pa.Table.from_batches(opened(contents, _ROWS)))
        yield pa.RecordBatch.from_arrays([pa.array(paths, pa.string())], ["path"])


def _write_days(url: str, rows: pa.Table) -> list[str]:
    """A file for each date of the rows, in order of their texts."""
    paths = []
    for ds in pc.unique(rows[DS]).to_pylist():
        own = rows.filter(pc.equal(rows[DS], ds))
        own = own.sort_by([(name, "ascending") for name in (RAW, SOURCE_FILE)])
        paths.append(f"{url}/{DS}={ds}/part-0.parquet")
        with write_stream(paths[-1]) as file:
            pq.write_table(own.select(list(_STORED)), file, compression="zstd")
    return paths


def quarantined_rows(table: Table, files: Sequence[NewFile], run: str) -> dict[str, int]:
    """Rows of a run in files that it staged, by date, read back from what was written."""
    fs, root = fsspec.core.url_to_fs(table.url)
    found: Counter[str] = Counter()
    for new in files:
        with fs.open(f"{root}/{new.path}", "rb") as file:
            runs = pq.read_table(file, columns=[RUN_ID], use_threads=False)[RUN_ID]
        found[new.partition[DS]] += pc.sum(pc.equal(runs, run)).as_py() or 0
    return dict(found)
