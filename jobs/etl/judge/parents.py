"""Parents too large for every worker: raw rows are brought together with them by a shuffle.

A parent is cut into parts by the hash of the join key, each a file of the run. Raw rows go, as
Arrow tables, to the part of their own key, where they get the parent's columns; then to that of the
next such parent, and last to be judged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark import Broadcast
from pyspark.sql import DataFrame, SparkSession

from jobs.base.errors import DataRefused, MillstreamError
from jobs.base.workers import in_workers
from jobs.base.xxhash import xxhash64_of_rows
from jobs.etl.judge.said import refusal_of
from jobs.etl.parcels import PARCELS, Numbers, exchanged, received, stream_parcels, streamed
from jobs.etl.raw.sources import RawSources
from jobs.rows.judge.engine import Engine
from jobs.rows.judge.parents import keyed_rows, refuse_repeated, typed_rows
from jobs.rows.judge.statement import PLACE, key_column
from jobs.rows.read.pieces import Piece, cut, read_rows, shares
from jobs.stores.files import write_stream
from schemas.dataset import Dataset
from schemas.source import Join, Source

_PIECE_BYTES, _PART_BYTES = 64 << 20, 64 << 20
# Of what a task says of itself, which goes past all parents.
ASIDE = -1
_REFUSED = "refused array<string>"


@dataclass(frozen=True)
class LargeParent:
    """A parent in files, one for each part of its keys.

    Attributes:
        url: of the folder with the files; a part without rows has none.
    """

    join: Join
    source: Source
    url: str
    parts: int

    def part_of(self, keys: pa.Table, places: np.ndarray) -> Numbers:
        """The part of each row [n]; a row with a null in its key has no parent, and may be
        anywhere.

        Args:
            keys: `__key_0`, ... [n].
            places: numbers by which such rows are spread [n].
        """
        columns = [keys[key_column(n)].combine_chunks() for n in range(len(self.join.on))]
        known = np.ones(keys.num_rows, bool)
        for column in columns:
            known &= np.asarray(column.is_valid())
        found = np.where(known, xxhash64_of_rows(columns), places)
        return (found % self.parts).astype(np.int32)

    def rows(self, part: int) -> pa.Table:
        fs, path = fsspec.core.url_to_fs(f"{self.url}/part-{part}.parquet")
        if not fs.exists(path):
            return keyed_rows([], self.source, self.join)
        with fs.open(path, "rb") as file:
            return pq.read_table(file, use_threads=False)


def stage_parents(
    spark: SparkSession, raw: RawSources, dataset: Dataset, most_mb: int, url: str
) -> list[LargeParent]:
    """Writes the parents whose files are larger together than `most_mb` into parts.

    Raises:
        DataRefused: a parent has malformed rows or repeats a key.
    """
    found = []
    for join in raw.large_parents(most_mb):
        source, files = dataset.source(join.source), raw.files[join.source]
        size = sum(file.size_bytes for file in files)
        parts = max(2 * spark.sparkContext.defaultParallelism, -(-size // _PART_BYTES))
        parent = LargeParent(join, source, f"{url}/parents/{join.source}", parts)
        _stage(spark, parent, cut(files, source, _PIECE_BYTES))
        found.append(parent)
    return found


def _stage(spark: SparkSession, parent: LargeParent, pieces: Sequence[Piece]) -> None:
    cores, total = spark.sparkContext.defaultParallelism, sum(piece.weight for piece in pieces)
    own = shares(pieces, max(cores, -(-total // _PIECE_BYTES)))
    shared = spark.sparkContext.broadcast((parent, own))
    sent = in_workers(spark.range(0, len(own), 1, len(own)), partial(_sent, shared), PARCELS)
    written = in_workers(
        exchanged(sent, min(parent.parts, 4 * cores)), partial(_written, parent), _REFUSED
    )
    for row in written.collect():
        raise refusal_of(*row[0])


def _sent(
    shared: Broadcast[tuple[LargeParent, list[list[Piece]]]], batches: Iterable[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    parent, own = shared.value
    try:
        for number in (n for batch in batches for n in batch.column(0).to_pylist()):
            for raw in read_rows(own[number], parent.source):
                typed = typed_rows(raw, parent.source)
                keyed = keyed_rows([typed], parent.source, parent.join)
                places = np.arange(keyed.num_rows)
                yield from stream_parcels(keyed, parent.part_of(keyed, places))
    except MillstreamError as error:
        # An exception of a task would come to the user as a trace of Java's.
        yield from stream_parcels(_refusal(error), np.full(4, ASIDE, np.int32))


def _refusal(error: MillstreamError) -> pa.Table:
    parts = [type(error).__name__, error.found, error.expected, error.remedy]
    return pa.table({"part": pa.array(parts, pa.string())})


def _written(parent: LargeParent, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """A file a part; yields refusals."""
    for part, contents in received(batches):
        table = streamed(contents)
        if part == ASIDE:
            yield _refusals(table["part"].to_pylist()[:4])
            continue
        try:
            refuse_repeated(table, parent.source, parent.join)
        except DataRefused as error:
            yield _refusals(_refusal(error)["part"].to_pylist())
            continue
        with write_stream(f"{parent.url}/part-{part}.parquet") as file:
            pq.write_table(table, file, compression="lz4")


def _refusals(parts: list[str]) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([parts], pa.list_(pa.string()))], ["refused"])


# Raw rows on their way


def rows_by_key(
    raw: Iterable[pa.Table], engine: Engine, parent: LargeParent
) -> Iterator[tuple[pa.RecordBatch, int]]:
    """Raw rows as parcels for the parts of their keys, and how many rows these are. Those of other
    dates are left out."""
    for table in raw:
        keys = engine.keys(table, parent.join)
        if keys.num_rows:
            rows = table.take(keys[PLACE])
            count = keys.num_rows
            for batch in stream_parcels(rows, parent.part_of(keys, keys[PLACE].to_numpy())):
                yield batch, count
                count = 0


def attached(
    sent: DataFrame,
    engine: Broadcast[Engine],
    parents: Sequence[LargeParent],
    tasks: int,
) -> DataFrame:
    """Parcels of raw rows for the first parent's parts to such for the last one's."""
    for here, there in pairwise(parents):
        step = partial(_passed_on, engine, here, there)
        sent = in_workers(exchanged(sent, tasks), step, PARCELS)
    return exchanged(sent, tasks)


def _passed_on(
    engine: Broadcast[Engine],
    here: LargeParent,
    there: LargeParent,
    batches: Iterable[pa.RecordBatch],
) -> Iterator[pa.RecordBatch]:
    for part, contents in received(batches):
        if part == ASIDE:
            yield from aside(contents)
        else:
            rows = with_parent(engine.value, here, part, contents)
            for batch, _ in rows_by_key(rows, engine.value, there):
                yield batch


def with_parent(
    engine: Engine, parent: LargeParent, part: int, contents: Sequence[pa.Buffer]
) -> Iterator[pa.Table]:
    """The raw rows of a part with the parent's columns."""
    rows = parent.rows(part)
    for content in contents:
        yield engine.attached(streamed([content]), parent.join, rows)


def aside(contents: Iterable[pa.Buffer]) -> Iterator[pa.RecordBatch]:
    """What goes past: as it came."""
    held = list(contents)
    arrays = [pa.array([ASIDE] * len(held), pa.int32())]
    arrays.append(pa.array([content.to_pybytes() for content in held], pa.binary()))
    yield pa.RecordBatch.from_arrays(arrays, ["part", "content"])
