"""What an erasure keeps, checked before its commit: it and what goes are what stood."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame

from jobs.base.workers import in_workers
from jobs.etl.write.digests import digests_of
from jobs.evaluate.predict.predictions import Content, contents, standing
from jobs.lake.files import LiveFile, NewFile
from jobs.lake.manifest import UINT64, Shard
from jobs.lake.tables import Table
from jobs.operations import layout
from jobs.rows.base.names import DS, SPLIT

# Rows, and sums mod 2^64 of their hashes, by the values of some columns.
Sums = Mapping[Any, tuple[int, ...]]


@dataclass(frozen=True)
class TableContent:
    """How the rows of a table without manifests are digested.

    Attributes:
        of_file: of a file's URL.
        of_rows: of rows in memory.
    """

    of_file: Callable[[str], Content]
    of_rows: Callable[[pa.Table], Content]

    def sums(self, rows: pa.Table) -> tuple[int, ...]:
        found = self.of_rows(rows)
        return found.rows, found.digest


def check_files(
    table: Table,
    dates: Collection[str],
    after: Sequence[NewFile],
    gone: DataFrame,
    read: TableContent,
) -> None:
    """Raises AssertionError where staged files and the rows that go are not what the dates hold."""
    spark = gone.sparkSession

    def sums(files: Sequence[LiveFile | NewFile]) -> Sums:
        found = contents(spark, table.url, files, read.of_file)
        return {(ds,): (one.rows, one.digest) for ds, one in found.items()}

    before = standing(table, {DS: list(dates)})
    _check(sums(before), sums(after), sums_of(gone, [DS], read.sums))


def check_shards(
    before: Sequence[Shard], after: Sequence[Shard], gone: DataFrame, schema: pa.Schema
) -> None:
    """The same of examples, which manifests tell of.

    Args:
        before: of the dates that rows go from.
        schema: the stored columns.
    """
    sums = sums_of(gone, [DS, SPLIT], partial(_of_examples, schema))
    _check(layout.contents(before), layout.contents(after), sums)


def _of_examples(schema: pa.Schema, rows: pa.Table) -> tuple[int, ...]:
    found = digests_of(rows.select(schema.names).cast(schema), 0, schema)
    return found.rows, found.digest, found.row_id_sum


def _check(before: Sums, after: Sums, gone: Sums) -> None:
    for place in before.keys() | after.keys() | gone.keys():
        stood, *parts = (found.get(place, (0, 0, 0)) for found in (before, after, gone))
        if any((one - a - b) % UINT64 for one, a, b in zip(stood, *parts, strict=False)):
            raise AssertionError(
                f"{', '.join(place)}: the rows that stay are not those that stood; nothing was "
                "committed"
            )


def sums_of(rows: DataFrame, by: Sequence[str], of: Callable[[pa.Table], tuple[int, ...]]) -> Sums:
    """Sums of rows that may lie in any task, by the values of columns of texts."""
    schema = ", ".join([*(f"{name} string" for name in by), "sums array<bigint>"])
    found: dict[tuple[str, ...], tuple[int, ...]] = {}
    for row in in_workers(rows, partial(_summed, by, of), schema).collect():
        place, own = tuple(row[name] for name in by), row["sums"]
        before = found.get(place, (0,) * len(own))
        found[place] = tuple((a + b) % UINT64 for a, b in zip(before, own, strict=True))
    return found


def _summed(
    by: Sequence[str],
    of: Callable[[pa.Table], tuple[int, ...]],
    batches: Iterable[pa.RecordBatch],
) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        rows = pa.Table.from_batches([batch])
        for place in rows.select(by).group_by(by).aggregate([]).to_pylist():
            own = rows
            for name, value in place.items():
                own = own.filter(pc.equal(own[name], value))
            sums = np.array(of(own.combine_chunks()), np.uint64).view(np.int64).tolist()
            columns = [pa.array([place[name]]) for name in by]
            sums = pa.array([sums], pa.list_(pa.int64()))
            yield pa.RecordBatch.from_arrays([*columns, sums], [*by, "sums"])
