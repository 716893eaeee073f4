"""Contributions: what the train rows of each date teach, kept by date so that it merges.

A date's contribution is counts by value for categorical fields and exact sums for numeric ones.
All sums are of whole numbers, so the bits are the same in any order of rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.types import ArrayType, DoubleType, LongType, StringType, StructField, StructType

from jobs.etl.fit.counting import (
    LIMBS,
    NUMBERS,
    VALUES,
    Counter,
    CountGroups,
    Ints,
    merged_numbers,
    merged_values,
)
from jobs.etl.fit.portions import by_value, hashes_of
from jobs.etl.parcels import Numbers, gathered, opened, parcels
from jobs.rows.base.names import DS
from jobs.stores.files import write_stream
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
_NULL_HASH = 1


@dataclass(frozen=True)
class Merging:
    """Where a date's counts are merged: those of values by their hash, all sums in one part.

    Attributes:
        of_values: parts of a date's values; one more part holds its sums.
    """

    groups: CountGroups
    of_values: int

    @staticmethod
    def of(dataset: Dataset, dates: Sequence[str], rows: int) -> Merging:
        """
        Args:
            rows: about how many all the dates have.
        """
        counted = tuple((f.name, f.log_name) for f in dataset.counted)
        measured = tuple(f.name for f in dataset.measured)
        by_date = -(-rows // (len(dates) * _ROWS_PER_PART))
        groups = CountGroups(tuple(dates), counted, measured)
        return Merging(groups, min(max(1, by_date), _MOST_PARTS))

    @property
    def parts(self) -> int:
        # A data set of images alone has nothing to fit.
        return len(self.groups.dates) * (self.of_values + 1) if self.groups.columns else 0

    def sent(self, counter: Counter, first: int = 0) -> Iterator[pa.RecordBatch]:
        """A task's counts as parcels.

        Args:
            first: the number of the first part.
        """
        for table in chain(gathered(counter.values()), [counter.numbers()]):
            if table.num_rows:
                yield from parcels(table, self._part_of(table) + np.int32(first))

    def _part_of(self, table: pa.Table) -> Numbers:
        """The part of each row of `VALUES` or of `NUMBERS`."""
        number = table["number"].to_numpy()
        first = self.groups.days(number) * (self.of_values + 1)
        if table.schema != VALUES:
            return (first + self.of_values).astype(np.int32)
        return (first + hashes_of(table["value"]) % self.of_values).astype(np.int32)

    def written(self, part: int, contents: Sequence[pa.Buffer], url: str) -> str:
        """Merges a part's parcels into a file below the folder; returns its path there."""
        day, kind = divmod(part, self.of_values + 1)
        if kind < self.of_values:
            counts = pa.Table.from_batches(opened(contents, VALUES))
            table = by_value(counts, partial(_of_values, self.groups))
        else:
            table = _of_numbers(self.groups, pa.Table.from_batches(opened(contents, NUMBERS)))
        path = f"{DS}={self.groups.dates[day]}/part-{part}.parquet"
        with write_stream(f"{url}/{path}") as file:
            pq.write_table(table, file, compression="zstd", use_dictionary=["field"])
        return path


def file_schema() -> pa.Schema:
    """The columns of a file of contributions."""
    return to_arrow_schema(StructType([f for f in CONTRIBUTIONS.fields if f.name != DS]))


def _of_values(groups: CountGroups, counts: pa.Table) -> pa.Table:
    """Counts of tasks to contributions, in order of their fields, which are named once then.

    In whatever order the counts came, the rows' order is one: the file of a task that was done
    twice is the same.
    """
    merged = merged_values(counts)
    merged = merged.take(pa.array(_order(merged)))
    columns = {"value": merged["value"], "count": merged["count"]}
    columns["field"] = groups.names_of(merged["number"].to_numpy())
    rows = merged.num_rows
    schema = file_schema()
    return pa.table([columns.get(f.name, pa.nulls(rows, f.type)) for f in schema], schema=schema)


def _order(merged: pa.Table) -> Ints:
    """Places of the rows by number and hash, and by value where the hashes of two are the same."""
    values, number = merged["value"], merged["number"].to_numpy()
    hashes = np.where(np.asarray(values.is_valid()), hashes_of(values), _NULL_HASH)
    order: Ints = np.argsort(hashes)
    # Numbers of two bytes are sorted by counting them.
    of_fields = (number - number.min()).astype(np.uint16)
    order = order[np.argsort(of_fields[order], kind="stable")]
    if ((np.diff(hashes[order]) == 0) & (np.diff(number[order]) == 0)).any():
        by = [("number", "ascending"), ("value", "ascending")]
        order = pc.sort_indices(merged, sort_keys=by).to_numpy().astype(np.int64)
    return order


def _of_numbers(groups: CountGroups, sums: pa.Table) -> pa.Table:
    """Sums of tasks to contributions: of each field its sums, then a row for each bucket."""
    merged = merged_numbers(sums)
    number = merged["number"].to_numpy()
    is_sum = np.asarray(merged["bucket"].is_null())
    counts = merged["count"].to_numpy()
    # The values of a field are those of its buckets, which stand behind its sums.
    starts = np.flatnonzero(is_sum)
    values = np.add.reduceat(np.where(is_sum, 0, counts), starts)
    limbs = np.stack([merged[limb].to_numpy() for limb in LIMBS], axis=1)[is_sum]
    half = len(LIMBS) // 2
    columns = {
        "field": groups.names_of(number),
        "value": merged["bucket"].cast(pa.string()),
        "count": pa.array(_spread(values, is_sum, counts)),
        "nulls": pa.array(counts, mask=~is_sum),
        "total": _lists(limbs[:, :half], is_sum),
        "total_squares": _lists(limbs[:, half:], is_sum),
        "low": merged["low"],
        "high": merged["high"],
    }
    schema = file_schema()
    return pa.table([columns[f.name] for f in schema], schema=schema)


def _spread(of_sums: Ints, is_sum: npt.NDArray[np.bool_], others: Ints) -> Ints:
    found = others.copy()
    found[is_sum] = of_sums
    return found


def _lists(limbs: npt.NDArray[np.int64], is_sum: npt.NDArray[np.bool_]) -> pa.ListArray:
    """The limbs of each sum [sums, limbs] as a list; null in the rows of buckets [n]."""
    offsets = np.concatenate([[0], np.cumsum(is_sum) * limbs.shape[1]])
    lists = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(limbs.reshape(-1)))
    return pc.if_else(pa.array(is_sum), lists, pa.scalar(None, lists.type))
