"""Scored rows to files of predictions, in one Spark job.

Rows go as parcels to tasks that write them, a part a file. A row's file follows from its row id and
the number of rows of its date, and files are in order of row ids, so neither cores nor cuts nor
retries change which rows a file has, and in which order. The bits of a score can change by the rows
that share its batch, as law 8 allows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import Row

from jobs.base.errors import DataRefused
from jobs.base.workers import in_workers
from jobs.etl.judge.files import ValidRows
from jobs.etl.parcels import PARCELS, exchanged, gathered, opened, parcels, received
from jobs.etl.write.shards import ordered_tables
from jobs.evaluate.predict.predict import SCORE, SCORES
from jobs.evaluate.predict.predictions import (
    MODEL_VERSION,
    RUN_ID,
    Content,
    content,
    predictions_schema,
    scored_schema,
    wrong_row,
)
from jobs.lake.files import NewFile, tables_of
from jobs.lake.manifest import UINT64
from jobs.lake.tables import Table
from jobs.rows.base.arrays import whole
from jobs.rows.base.groups import portions, texts_of
from jobs.rows.base.names import DS
from jobs.rows.judge.values import dictionary
from jobs.stores.files import write_stream
from schemas.dataset import ROW_ID, Dataset

_FILE_ROWS = 1_000_000
_GROUP_ROWS = 1 << 18
# A task writes one after the other.
_FILES_PER_TASK = 8
_WRITTEN = (
    f"{DS} string, path string, bytes bigint, row_group_rows array<bigint>, digest bigint, "
    "wrong string"
)
_WRITTEN_ARROW = pa.schema(
    [
        (DS, pa.string()),
        ("path", pa.string()),
        ("bytes", pa.int64()),
        ("row_group_rows", pa.list_(pa.int64())),
        ("digest", pa.int64()),
        ("wrong", pa.string()),
    ]
)


@dataclass(frozen=True)
class DayFiles:
    """The files of each date, numbered through.

    Attributes:
        counts: files by date.
    """

    counts: Mapping[str, int]

    @staticmethod
    def of(rows: Mapping[str, int]) -> DayFiles:
        """As many as hold `_FILE_ROWS` rows, on average; none of a date without rows."""
        return DayFiles({ds: -(-count // _FILE_ROWS) for ds, count in rows.items() if count})

    @cached_property
    def files(self) -> list[tuple[str, int]]:
        """(ds, its file) by number."""
        return [(ds, file) for ds, count in self.counts.items() for file in range(count)]

    def numbers(self, table: pa.Table) -> npt.NDArray[np.int32]:
        """The file's number of each row: those of a date are ranges of row ids."""
        firsts = dict(zip(self.counts, accumulate(self.counts.values(), initial=0), strict=False))
        days = dictionary(whole(table[DS]))
        known, places = days.dictionary.to_pylist(), days.indices.to_numpy()
        first = np.array([firsts[ds] for ds in known], np.int64)
        count = np.array([self.counts[ds] for ds in known], np.int64)
        # Row ids are hashes: their highest bits are evenly spread.
        share = (table[ROW_ID].to_numpy() >> 48) + (1 << 15)
        found: npt.NDArray[np.int32] = first[places] + (share * count[places] >> 16)
        return found.astype(np.int32)


def stage_predictions(
    rows: ValidRows,
    counts: Mapping[str, int],
    dataset: Dataset,
    table: Table,
    run: str,
    model_version: str,
) -> tuple[list[NewFile], dict[str, Content]]:
    """Writes the predictions into the run's folder and reads them back; nothing is visible yet.

    Args:
        rows: scored, see `Scorer`.
        counts: of them by date.

    Returns:
        The files, and what was read back by date.

    Raises:
        DataRefused: a key stands twice, or has no finite score; the message names it.
    """
    files = DayFiles.of(counts)
    schema = scored_schema(dataset)
    sent = rows.in_arrow([*schema.names, DS], _Sending(files, schema), PARCELS)
    total, most = len(files.files), 4 * rows.spark.sparkContext.defaultParallelism
    tasks = max(1, min(total, most), -(-total // _FILES_PER_TASK))
    writer = _PredictionsWriter(
        table.fresh_folder(run), tuple(files.files), dataset, run, model_version
    )
    found = in_workers(exchanged(sent, tasks), writer, _WRITTEN).collect()
    if wrong := sorted(row["wrong"] for row in found if row["wrong"]):
        raise DataRefused(
            wrong[0],
            "one row a key, each with a finite score",
            "nothing was committed; evaluate the model before scoring with it",
        )
    return _staged(run, model_version, found)


def _staged(run: str, version: str, found: list[Row]) -> tuple[list[NewFile], dict[str, Content]]:
    files: list[NewFile] = []
    by_date: dict[str, Content] = {}
    for row in sorted(found, key=lambda row: row["path"]):
        ds, groups = row[DS], tuple(row["row_group_rows"])
        files.append(NewFile(f"run={run}/{row['path']}", {DS: ds}, row["bytes"], groups))
        own = Content(sum(groups), row["digest"] % UINT64, frozenset([version]))
        by_date[ds] = by_date.get(ds, Content()) + own
    return files, by_date


@dataclass(frozen=True)
class _Sending:
    """A task's rows to parcels of predictions, in a Python worker."""

    files: DayFiles
    schema: pa.Schema

    def __call__(self, tables: Iterator[pa.Table]) -> Iterator[pa.RecordBatch]:
        names = texts_of(self.schema)
        plain = (self._plain(part) for table in tables for part in portions(table, names))
        for table in gathered(plain):
            order = np.argsort(table[ROW_ID].to_numpy())
            rows = table.select(self.schema.names)
            yield from parcels(rows, self.files.numbers(table), order)

    def _plain(self, table: pa.Table) -> pa.Table:
        """Without dictionaries, which say little of how large the values are."""
        return table.select(self.schema.names).cast(self.schema).append_column(DS, table[DS])


@dataclass(frozen=True)
class _PredictionsWriter:
    """A task's parcels to files, and these read back, in a Python worker."""

    url: str
    files: tuple[tuple[str, int], ...]
    dataset: Dataset
    run: str
    model_version: str

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        schema = scored_schema(self.dataset)
        for place, contents in received(batches):
            ds, number = self.files[place]
            path = f"{DS}={ds}/part-{number}.parquet"
            self._write(f"{self.url}/{path}", opened(contents, schema))
            row = {DS: ds, "path": path, **self._read_back(f"{self.url}/{path}", ds)}
            yield pa.RecordBatch.from_pylist([row], _WRITTEN_ARROW)

    def _write(self, url: str, parts: list[pa.RecordBatch]) -> None:
        same = {MODEL_VERSION: self.model_version, RUN_ID: self.run}
        schema = scored_schema(self.dataset)
        for name in same:
            schema = schema.append(pa.field(name, pa.string()))
        with write_stream(url) as file, _opened(file, schema) as writer:
            for group in ordered_tables(parts, self.dataset.key, _GROUP_ROWS):
                for value in same.values():
                    column = pa.repeat(pa.scalar(value, pa.string()), group.num_rows)
                    group = group.append_column(schema.field(group.num_columns), column)
                writer.write_table(group, row_group_size=_GROUP_ROWS)

    def _read_back(self, url: str, ds: str) -> dict[str, object]:
        tables = list(tables_of(url, predictions_schema(self.dataset).fieldNames()[:-2]))
        found = sum((content(table, self.dataset) for table in tables), Content())
        fs, path = fsspec.core.url_to_fs(url)
        return {
            "bytes": fs.size(path),
            "row_group_rows": [table.num_rows for table in tables],
            "digest": int(np.uint64(found.digest).view(np.int64)),
            "wrong": wrong_row(tables, ds, self.dataset),
        }


def _opened(file: Any, schema: pa.Schema) -> pq.ParquetWriter:
    # Row ids and scores differ, so a dictionary of them would only be in the way.
    repeating = [name for name in schema.names if name not in (ROW_ID, SCORE, SCORES)]
    return pq.ParquetWriter(
        file, schema, compression="zstd", use_dictionary=repeating, write_page_checksum=True
    )
