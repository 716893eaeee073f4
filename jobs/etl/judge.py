"""Judge: the rows of some dates with their values, reasons and splits, in files of a run.

Plain lines take the short way of `jobs.etl.plain`; odd ones, and all rows of declarations that need
Spark's expressions, the long one of `jobs.etl.validate`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark import Broadcast
from pyspark.sql import Column as SparkColumn
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from jobs.etl.exchange import Ints
from jobs.etl.identity import Survey, id_of_line, ids_of_first_lines, ordered_by_line
from jobs.etl.kept import (
    STAGED,
    Kept,
    KeptFile,
    KeptWriter,
    keep,
    kept_files,
    staged_batch,
)
from jobs.etl.lines import MISCODED
from jobs.etl.names import DS, ORDINAL, RAW, REASONS, SOURCE_FILE, SPLIT
from jobs.etl.plain import PlainLane, plain_batches, plain_lane
from jobs.etl.validate import checked_rows, dated_lines
from jobs.lake.lake import Lake
from schemas.dataset import ROW_ID, Dataset

# Kinds of files: plain rows, lines that Spark must judge, and lines whose ordinal is not known yet.
_PLAIN, _ODD, _REPEATED = "plain", "odd", "repeated"
_LINES = f"{RAW} string, {SOURCE_FILE} string, {MISCODED} boolean, {DS} string, {ORDINAL} int"
_TEXT_OF_LINE = (RAW, SOURCE_FILE, MISCODED, DS)


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
        url = lake.table("kept").fresh_folder(run)
        lane = plain_lane(self.dataset, self.with_label)
        if lane is None or self.found.repeated is None:
            return keep(self._checked(None), url)
        return self._by_lanes(lane, self.found.repeated, url)

    def _by_lanes(self, lane: PlainLane, repeated: Ints, url: str) -> Kept:
        lines = dated_lines(self.spark, self.dataset, self.sources, self.dates)
        first_ids = ids_of_first_lines(repeated)
        files = self._in_lane(lane, lines.withColumn(ORDINAL, F.lit(1)), first_ids, url)
        if again := files.pop(_REPEATED, []):
            counted = ordered_by_line(self._lines_of(url, again), self.dataset)
            for kind, more in self._in_lane(lane, counted, first_ids[:0], url).items():
                files.setdefault(kind, []).extend(more)
        plain, odd = files.get(_PLAIN, []), files.get(_ODD, [])
        schema = from_arrow_schema(_schema(lane, self._places))
        if odd:
            rest = self._checked(self._lines_of(url, odd))
            plain += keep(rest.select(*schema.names), url).files
        return Kept(self.spark, url, tuple(sorted(plain)), schema)

    @property
    def _places(self) -> tuple[str, ...]:
        return (SPLIT,) if self.split is not None else ()

    def _lines_of(self, url: str, files: Sequence[KeptFile]) -> DataFrame:
        return self.spark.read.schema(_LINES).parquet(*[f"{url}/{file.path}" for file in files])

    def _in_lane(
        self, lane: PlainLane, lines: DataFrame, repeated_ids: Ints, url: str
    ) -> dict[str, list[KeptFile]]:
        """The files by kind: plain rows, odd lines, and the lines that have one of the ids."""
        split = [self.split.alias(SPLIT)] if self.split is not None else []
        row_id = id_of_line(self.dataset, F.col(ORDINAL)).alias(ROW_ID)
        judged = lines.select(*_TEXT_OF_LINE, ORDINAL, row_id, *split)
        repeated = self.spark.sparkContext.broadcast(repeated_ids)
        work = partial(_written, lane, self._places, repeated, url)
        files: dict[str, list[KeptFile]] = {}
        for file in kept_files(judged.mapInArrow(work, STAGED)):
            files.setdefault(file.path.split("-", 1)[0], []).append(file)
        return files

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
    lane: PlainLane,
    places: Sequence[str],
    repeated: Broadcast[Ints],
    url: str,
    batches: Iterator[pa.RecordBatch],
) -> Iterator[pa.RecordBatch]:
    """A task's lines into files: plain rows, and the odd and the repeated lines as they are."""
    schema, of_line = _schema(lane, places), list(_TEXT_OF_LINE)
    with (
        KeptWriter(url, _PLAIN) as plain,
        KeptWriter(url, _ODD) as odd,
        KeptWriter(url, _REPEATED) as again,
    ):
        single = _single(batches, repeated.value, again)
        for values, rows, odd_rows in plain_batches(lane, single, RAW, MISCODED):
            count = rows.num_rows
            empty = pa.ListArray.from_arrays(
                pa.array([0] * (count + 1), pa.int32()), pa.array([], pa.string())
            )
            columns = {name: rows[name] for name in (DS, SOURCE_FILE, ROW_ID, *places)}
            columns |= {RAW: pa.nulls(count, pa.string()), REASONS: empty, **values}
            plain.add(pa.table([columns[name] for name in schema.names], schema=schema))
            odd.add(odd_rows.select([*of_line, ORDINAL]))
    yield staged_batch([plain, odd, again])


def _single(
    batches: Iterator[pa.RecordBatch], repeated: Ints, again: KeptWriter
) -> Iterator[pa.Table]:
    """The rows whose ids are not among those repeated; the lines of the others are written."""
    for batch in batches:
        table = pa.Table.from_batches([batch])
        if len(repeated):
            ids = table[ROW_ID].to_numpy()
            places = np.minimum(np.searchsorted(repeated, ids), len(repeated) - 1)
            found = pa.array(repeated[places] == ids)
            again.add(table.filter(found).select([*_TEXT_OF_LINE]))
            table = table.filter(pc.invert(found))
        yield table
