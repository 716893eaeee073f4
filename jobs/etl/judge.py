"""Judge: the rows of some dates with their values, reasons and splits, in files of a run.

Plain lines take the short way of `jobs.etl.plain`; odd ones, and all rows of declarations that need
Spark's expressions, the long one of `jobs.etl.validate`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
from pyspark.sql import Column as SparkColumn
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from jobs.etl.identity import Survey, id_of_single_line, is_repeated
from jobs.etl.kept import (
    STAGED,
    Kept,
    KeptWriter,
    discard,
    folder_of,
    keep,
    kept_files,
    staged_batch,
)
from jobs.etl.lines import MISCODED
from jobs.etl.names import DS, RAW, REASONS, SOURCE_FILE, SPLIT
from jobs.etl.plain import PlainLane, plain_batches, plain_lane
from jobs.etl.validate import checked_rows, dated_lines
from jobs.lake import Lake
from schemas.dataset import ROW_ID, Dataset

_ODD = "odd"
_LINES = f"{RAW} string, {SOURCE_FILE} string, {MISCODED} boolean"
# So many lines are judged together; fewer where they are long.
_ROWS, _BYTES = 65_536, 64 << 20


@dataclass(frozen=True)
class Judging:
    """What judging the rows of some dates needs.

    Attributes:
        sources: path of each source of the declaration.
        dates: as YYYY-MM-DD.
        found: the survey of these dates.
        split: of a valid row; None where rows have none.
        with_label: False in scoring.
    """

    spark: SparkSession
    dataset: Dataset
    sources: Mapping[str, str]
    dates: Sequence[str]
    found: Survey
    split: SparkColumn | None = None
    with_label: bool = True

    def kept(self, lake: Lake, run: str) -> Kept:
        """Judges the rows once, into files.

        Raises:
            DataRefused, ConfigError: see `checked_rows`.
        """
        discard(lake, run)
        url = folder_of(lake, run)
        lane = plain_lane(self.dataset, self.with_label)
        if lane is None or self.found.repeated is None:
            return keep(self._checked(None), url)
        return self._by_lanes(lane, self.found.repeated, url)

    def _by_lanes(self, lane: PlainLane, repeated: Sequence[int], url: str) -> Kept:
        lines = dated_lines(self.spark, self.dataset, self.sources, self.dates)
        places = {SPLIT: self.split} if self.split is not None else {}
        judged = lines.select(
            RAW,
            SOURCE_FILE,
            MISCODED,
            DS,
            id_of_single_line(self.dataset).alias(ROW_ID),
            *[value.alias(name) for name, value in places.items()],
            (F.col(MISCODED) | is_repeated(self.dataset, repeated)).alias(_ODD),
        )
        staged = kept_files(judged.mapInArrow(partial(_written, lane, tuple(places), url), STAGED))
        plain = [file for file in staged if not file.path.startswith(_ODD)]
        odd = [f"{url}/{file.path}" for file in staged if file.path.startswith(_ODD)]
        schema = from_arrow_schema(_schema(lane, tuple(places)))
        if odd:
            rest = self._checked(self.spark.read.schema(_LINES).parquet(*odd))
            plain += keep(rest.select(*schema.names), url).files
        return Kept(self.spark, url, tuple(plain), schema)

    def _checked(self, lines: DataFrame | None) -> DataFrame:
        """Judged by Spark, with the split of valid rows, and the text of refused ones alone."""
        rows = checked_rows(
            self.spark,
            self.dataset,
            self.sources,
            self.dates,
            self.with_label,
            self.found,
            lines,
        )
        valid = F.size(REASONS) == 0
        if self.split is not None:
            rows = rows.withColumn(SPLIT, F.when(valid, self.split))
        return rows.withColumn(RAW, F.when(~valid, F.col(RAW)))


def _schema(lane: PlainLane, places: Sequence[str]) -> pa.Schema:
    texts = dict.fromkeys([DS, RAW, SOURCE_FILE, *places], pa.string())
    reasons = {REASONS: pa.list_(pa.string())}
    return pa.schema([*{**texts, **reasons, **lane.types, ROW_ID: pa.int64()}.items()])


def _written(
    lane: PlainLane, places: Sequence[str], url: str, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """A task's lines into two files: plain rows, and odd lines as they are."""
    schema = _schema(lane, places)
    with KeptWriter(url, "plain") as plain, KeptWriter(url, _ODD) as odd:
        for values, rows, odd_rows in plain_batches(lane, _tables(batches), RAW, _ODD):
            count = rows.num_rows
            empty = pa.ListArray.from_arrays(
                pa.array([0] * (count + 1), pa.int32()), pa.array([], pa.string())
            )
            columns = {name: rows[name] for name in (DS, SOURCE_FILE, ROW_ID, *places)}
            columns |= {RAW: pa.nulls(count, pa.string()), REASONS: empty, **values}
            plain.add(pa.table([columns[name] for name in schema.names], schema=schema))
            odd.add(odd_rows.select([RAW, SOURCE_FILE, MISCODED]))
    yield staged_batch([plain, odd])


def _tables(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    """The rows in tables of a size that is worth Arrow's while."""
    held: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        held.append(batch)
        rows, size = rows + batch.num_rows, size + batch.nbytes
        if rows >= _ROWS or size >= _BYTES:
            yield pa.Table.from_batches(held)
            held, rows, size = [], 0, 0
    if held:
        yield pa.Table.from_batches(held)
