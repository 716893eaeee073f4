"""Contributions of rows, made as the ETL makes them, and read as it reads them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import SparkSession
from pyspark.sql.pandas.types import to_arrow_schema

from jobs.etl.fit.contributions import CONTRIBUTIONS, Merging
from jobs.etl.fit.counting import Counter
from jobs.etl.fit.entries import ENTRIES
from jobs.etl.fit.history import CountHistory, read_file
from jobs.etl.parcels import PART, received
from jobs.lake.files import LiveFile
from jobs.rows.base.names import DS
from schemas.dataset import Dataset

SCHEMA = to_arrow_schema(CONTRIBUTIONS)


def history_of(
    spark: SparkSession,
    folder: Path,
    tasks: Sequence[pa.Table],
    dataset: Dataset,
    dates: Sequence[str],
    of_values: int = 1,
) -> CountHistory:
    """What valid rows add, each table the rows of one task.

    Args:
        of_values: parts of a date's values.
    """
    whole = Merging.of(dataset, dates, 1)
    merging = Merging(whole.groups, of_values)
    url = folder / uuid4().hex
    sent = [batch for rows in tasks for batch in _sent(merging, rows)]
    files = []
    for part, contents in received(_by_part(sent)):
        path = merging.written(part, contents, str(url))
        ds = path.split("/")[0].removeprefix(f"{DS}=")
        size = (url / path).stat().st_size
        files.append(LiveFile(path, {DS: ds}, pq.read_metadata(url / path).num_rows, size))
    return CountHistory(spark, str(url), tuple(files))


def _sent(merging: Merging, rows: pa.Table) -> Iterator[pa.RecordBatch]:
    counter = Counter(merging.groups)
    counter.add(rows)
    yield from merging.sent(counter)


def _by_part(sent: Sequence[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    if sent:
        yield from pa.Table.from_batches(sent).sort_by(PART).to_batches()


def history_of_rows(
    spark: SparkSession, folder: Path, rows: Sequence[dict[str, Any]]
) -> CountHistory:
    """Contributions as they are given, `ds` with them: a file a date."""
    url = folder / uuid4().hex
    files = []
    for ds, own in groupby(sorted(rows, key=lambda row: str(row[DS])), key=lambda row: row[DS]):
        table = pa.Table.from_pylist(list(own), schema=SCHEMA).drop_columns([DS])
        path = f"{DS}={ds}/part-0.parquet"
        (url / path).parent.mkdir(parents=True)
        pq.write_table(table, url / path)
        files.append(LiveFile(path, {DS: ds}, table.num_rows, (url / path).stat().st_size))
    return CountHistory(spark, str(url), tuple(files))


def contributions(history: CountHistory) -> pa.Table:
    """All rows of a history, with their `ds`."""
    nothing = SCHEMA.empty_table()
    found = [
        read_file(history.url, file).select(SCHEMA.names).cast(SCHEMA) for file in history.files
    ]
    return pa.concat_tables([nothing, *found])


def entries_of(entries: Sequence[tuple[str, str, int, str]]) -> pa.Table:
    """Of the id log: field, value, id, date."""
    return pa.Table.from_pylist(
        [dict(zip(ENTRIES.names, entry, strict=True)) for entry in entries], schema=ENTRIES
    )
