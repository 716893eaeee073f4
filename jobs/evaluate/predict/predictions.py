"""The predictions table: its columns, what its files hold, and their check before a commit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import SparkSession
from pyspark.sql.types import StructType

from jobs.base.xxhash import xxhash64_of_rows
from jobs.evaluate.predict.predict import SCORE, score_columns
from jobs.lake.files import LiveFile, NewFile, tables_of
from jobs.lake.manifest import UINT64
from jobs.lake.tables import Table
from jobs.rows.base.names import DS, RAW, REASONS, SOURCE_FILE
from schemas.dataset import ROW_ID, Dataset, struct_type
from schemas.field import Carried
from schemas.stored import StoredColumn, arrow_schema

MODEL_VERSION, RUN_ID = "model_version", "run_id"
# Files with more rows are read by Spark's tasks.
_DRIVER_ROWS = 2_000_000
_THREADS = 8
_REFUSED = (REASONS, RAW, SOURCE_FILE)


@dataclass(frozen=True)
class Content:
    """What rows hold, whatever their order: their number and their hashes' sum.

    The run is no part of it, so a replay has the same content.
    """

    rows: int = 0
    digest: int = 0
    model_versions: frozenset[str] = field(default_factory=frozenset)

    def __add__(self, other: Content) -> Content:
        return Content(
            self.rows + other.rows,
            (self.digest + other.digest) % UINT64,
            self.model_versions | other.model_versions,
        )


def kept_columns(dataset: Dataset) -> list[str]:
    """What a prediction keeps of its row: row id, key and carried fields."""
    kept = {ROW_ID, *dataset.key, *(f.name for f in dataset.of_kind(Carried))}
    return [column.name for column in dataset.stored_columns() if column.name in kept]


def predictions_schema(dataset: Dataset) -> StructType:
    types = {column.name: column.spark_type for column in dataset.stored_columns()}
    own = [*score_columns(dataset), (MODEL_VERSION, "string"), (RUN_ID, "string"), (DS, "string")]
    return struct_type([*((name, types[name]) for name in kept_columns(dataset)), *own])


def scored_schema(dataset: Dataset) -> pa.Schema:
    """Of what a prediction says of its row: all columns but those that all rows of a run share."""
    kept = set(kept_columns(dataset))
    own = [StoredColumn(name, kind, "", nullable=True) for name, kind in score_columns(dataset)]
    return arrow_schema([*(c for c in dataset.stored_columns() if c.name in kept), *own])


# What is wrong


def wrong_row(tables: Iterable[pa.Table], ds: str, dataset: Dataset) -> str:
    """A row of a file that may not be predicted so, in words; empty where there is none.

    Args:
        tables: the file's rows, those of one key one after the other.
    """
    # Of rows without a key the row id is the only trace.
    identity = [ROW_ID, *dataset.key]
    before = None
    for table in tables:
        lost = np.flatnonzero(~np.isfinite(_numbers(table[SCORE])))
        if len(lost):
            return f"a prediction has no finite score: {_named(table, int(lost[0]), ds, dataset)}"
        rows = table.select(identity)
        if before is not None:
            rows = pa.concat_tables([before, rows])
        again = np.flatnonzero(_as_before(rows))
        if len(again):
            named = _named(rows, int(again[0]), ds, dataset)
            return f"a prediction stands in more than one row: {named}"
        before = rows.slice(max(0, rows.num_rows - 1))
    return ""


def _numbers(column: pa.ChunkedArray) -> npt.NDArray[np.float32]:
    numbers: npt.NDArray[np.float32] = column.to_numpy()
    return numbers


def _as_before(rows: pa.Table) -> npt.NDArray[np.bool_]:
    """Whether a row has the values of the one before it [n - 1]."""
    same = np.ones(max(0, rows.num_rows - 1), bool)
    for column in rows.columns:
        if same.any():
            equal = pc.equal(column.slice(1), column.slice(0, len(same)))
            same &= np.asarray(pc.fill_null(equal, False))
    return same


def _named(table: pa.Table, row: int, ds: str, dataset: Dataset) -> str:
    names = dataset.key or (ROW_ID,)
    return ", ".join([f"{DS}={ds}", *(f"{name}={table[name][row].as_py()}" for name in names)])


# What files hold


def content(table: pa.Table, dataset: Dataset) -> Content:
    """Of rows of the predictions table."""
    names = [*kept_columns(dataset), *(name for name, _ in score_columns(dataset))]
    return Content(
        *_rows_and_digest(table, names), frozenset(pc.unique(table[MODEL_VERSION]).to_pylist())
    )


def refused_content(table: pa.Table) -> Content:
    """Of quarantined rows."""
    return Content(*_rows_and_digest(table, _REFUSED))


def _rows_and_digest(table: pa.Table, names: Sequence[str]) -> tuple[int, int]:
    hashes = xxhash64_of_rows([_whole(table[name]) for name in names])
    return table.num_rows, int(hashes.view(np.uint64).sum(dtype=np.uint64))


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def predictions_of_file(dataset: Dataset, url: str) -> Content:
    """What a file of predictions holds, read back."""
    names = predictions_schema(dataset).fieldNames()[:-2]
    return sum((content(table, dataset) for table in tables_of(url, names)), Content())


def refused_of_file(url: str) -> Content:
    return sum(map(refused_content, tables_of(url, _REFUSED)), Content())


def contents(
    spark: SparkSession,
    url: str,
    files: Sequence[LiveFile | NewFile],
    read: Callable[[str], Content],
) -> dict[str, Content]:
    """What files of a table hold, by date.

    Args:
        read: from a file's URL to its content.
    """
    paths = [f"{url}/{file.path}" for file in files]
    if sum(file.rows for file in files) <= _DRIVER_ROWS:
        with ThreadPoolExecutor(_THREADS) as threads:
            found = list(threads.map(read, paths))
    else:
        tasks = min(len(paths), 4 * spark.sparkContext.defaultParallelism)
        found = spark.sparkContext.parallelize(paths, tasks).map(read).collect()
    by_date: dict[str, Content] = {}
    for file, own in zip(files, found, strict=True):
        ds = file.partition[DS]
        by_date[ds] = by_date.get(ds, Content()) + own
    return by_date


def standing(table: Table, where: Mapping[str, Sequence[str]]) -> list[LiveFile]:
    """The files of some partitions, in the newest version."""
    return [
        file
        for file in (table.files() if table.exists() else [])
        if all(file.partition[name] in values for name, values in where.items())
    ]
