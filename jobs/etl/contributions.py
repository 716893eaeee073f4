"""Contributions: what the train rows of each date teach, kept by date so that it merges.

A date's contribution is counts by value for categorical fields and exact sums for numeric ones.
All sums are of whole numbers, so the bits are the same in any order of rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.types import ArrayType, DoubleType, LongType, StringType, StructField, StructType

from jobs.base.xxhash import xxhash64
from jobs.etl.counting import LIMBS, NUMBERS, VALUES, Groups, counted
from jobs.etl.exchange import PARCELS, Numbers, arrived, exchanged, gathered, opened, parcels
from jobs.etl.kept import Kept
from jobs.etl.names import DS
from jobs.lake.files import NewFile
from jobs.lake.store import write_stream
from jobs.lake.tables import Table
from schemas.dataset import Dataset

CONTRIBUTIONS = StructType(
    [
        StructField("field", StringType()),
        StructField("value", StringType()),
        StructField("count", LongType()),
        StructField("nulls", LongType()),
        StructField("total", ArrayType(LongType())),
        StructField("total_squares", ArrayType(LongType())),
        StructField("low", DoubleType()),
        StructField("high", DoubleType()),
        StructField(DS, StringType()),
    ]
)
# The values that a date's rows have are merged in a part for so many rows.
_ROWS_PER_PART, _MOST_PARTS = 1_000_000, 256


def stage_contributions(
    train: Kept, dataset: Dataset, dates: Sequence[str], table: Table, run: str
) -> list[NewFile]:
    """Writes what the train rows of each date add into the run's folder: see `CONTRIBUTIONS`.

    A categorical row counts one value (null is one of them), a list each of its elements. A
    numeric field has one row a date with its sums, and one for each bucket of its values, whose
    number is the `value`.

    Args:
        dates: those of the rows.
    """
    url = table.fresh_folder(run)
    parts = _Parts.of(dataset, dates, train.count)
    # A data set of images alone has nothing to fit.
    if parts.groups.columns:
        sent = train.in_arrow([DS, *parts.groups.columns], partial(_sent, parts), PARCELS)
        tasks = min(parts.count, 2 * train.spark.sparkContext.defaultParallelism)
        exchanged(sent, tasks).mapInArrow(partial(_written, parts, url), "path string").collect()
    return table.staged(run, [DS])


@dataclass(frozen=True)
class _Parts:
    """Where a date's counts are merged: those of values by their hash, all sums in one part."""

    groups: Groups
    of_values: int

    @staticmethod
    def of(dataset: Dataset, dates: Sequence[str], rows: int) -> _Parts:
        counted = tuple((f.name, f.log_name) for f in dataset.counted)
        measured = tuple(f.name for f in dataset.measured)
        by_date = -(-rows // (len(dates) * _ROWS_PER_PART))
        groups = Groups(tuple(dates), counted, measured)
        return _Parts(groups, min(max(1, by_date), _MOST_PARTS))

    @property
    def count(self) -> int:
        return len(self.groups.dates) * (self.of_values + 1)

    def of_rows(self, table: pa.Table) -> Numbers:
        """The part of each row of `VALUES` or of `NUMBERS`."""
        number = table["number"].to_numpy()
        first = self.groups.days(number) * (self.of_values + 1)
        if table.schema != VALUES:
            return (first + self.of_values).astype(np.int32)
        texts = table["value"].combine_chunks()
        # Null with those of one text: it is one of the values.
        return (first + xxhash64(texts.fill_null("")) % self.of_values).astype(np.int32)

    def day(self, part: int) -> str:
        return self.groups.dates[part // (self.of_values + 1)]

    def is_of_values(self, part: int) -> bool:
        return part % (self.of_values + 1) < self.of_values


def _sent(parts: _Parts, tables: Iterator[pa.Table]) -> Iterator[pa.RecordBatch]:
    values, numbers = counted(parts.groups, tables)
    for table in chain(gathered(values), [numbers]):
        if table.num_rows:
            yield from parcels(table, parts.of_rows(table))


def _written(
    parts: _Parts, url: str, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """A file a part."""
    for part, contents in arrived(batches):
        if parts.is_of_values(part):
            table = _of_values(parts.groups, pa.Table.from_batches(opened(contents, VALUES)))
        else:
            table = _of_numbers(parts.groups, pa.Table.from_batches(opened(contents, NUMBERS)))
        path = f"{DS}={parts.day(part)}/part-{part}.parquet"
        with write_stream(f"{url}/{path}") as file:
            pq.write_table(table, file, compression="zstd", use_dictionary=["field"])
        yield pa.RecordBatch.from_arrays([pa.array([path])], ["path"])


def _schema() -> pa.Schema:
    return to_arrow_schema(StructType([f for f in CONTRIBUTIONS.fields if f.name != DS]))


def _of_values(groups: Groups, counts: pa.Table) -> pa.Table:
    """Counts of tasks to contributions, in order of their fields, which are named once then."""
    merged = counts.group_by(["number", "value"], use_threads=False).aggregate([("count", "sum")])
    merged = merged.take(np.argsort(merged["number"].to_numpy(), kind="stable"))
    columns = {"value": merged["value"], "count": merged["count_sum"]}
    columns["field"] = groups.names_of(merged["number"].to_numpy())
    rows = merged.num_rows
    schema = _schema()
    return pa.table([columns.get(f.name, pa.nulls(rows, f.type)) for f in schema], schema=schema)


def _of_numbers(groups: Groups, sums: pa.Table) -> pa.Table:
    """Sums of tasks to contributions: of each field its sums, and a row for each bucket."""
    ends = [("count", "sum"), ("low", "min"), ("high", "max")]
    added = [(limb, "sum") for limb in LIMBS]
    merged = sums.group_by(["number", "bucket"], use_threads=False).aggregate([*ends, *added])
    rows: list[dict[str, Any]] = []
    for number in pc.unique(merged["number"]).sort().to_pylist():
        own = merged.filter(pc.equal(merged["number"], number)).to_pylist()
        name = groups.names_of(np.array([number]))[0].as_py()
        rows += _of_number(name, own)
    return pa.Table.from_pylist(rows, schema=_schema())


def _of_number(name: str, found: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    (sums,) = (row for row in found if row["bucket"] is None)
    buckets = [row for row in found if row["bucket"] is not None]
    limbs = [sums[f"{limb}_sum"] for limb in LIMBS]
    yield {
        "field": name,
        "count": sum(row["count_sum"] for row in buckets),
        "nulls": sums["count_sum"],
        "low": sums["low_min"],
        "high": sums["high_max"],
        "total": limbs[: len(limbs) // 2],
        "total_squares": limbs[len(limbs) // 2 :],
    }
    for row in sorted(buckets, key=lambda row: int(row["bucket"])):
        yield {"field": name, "value": str(row["bucket"]), "count": row["count_sum"]}
