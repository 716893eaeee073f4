"""The tasks of judging: those that read and judge rows, and those after them, which add up."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark import Broadcast, TaskContext

from jobs.base.errors import MillstreamError
from jobs.etl.fit.contributions import Merging
from jobs.etl.fit.counting import Counter
from jobs.etl.fit.expect import added, measured
from jobs.etl.judge.counts import counts_of, merged
from jobs.etl.judge.files import RowsWriter
from jobs.etl.judge.parents import ASIDE, LargeParent, rows_by_key, with_parent
from jobs.etl.judge.said import Said, parcel
from jobs.etl.parcels import Ints, opened, parcels, received
from jobs.rows.base.arrays import taken
from jobs.rows.base.names import LINE_HASH, ROW_TEXT
from jobs.rows.judge.engine import Engine
from jobs.rows.judge.identity import line_hashes
from jobs.rows.judge.judged import Judged
from jobs.rows.read.pieces import Piece, read_rows
from jobs.stores.files import write_stream
from schemas.dataset import ROW_ID, Dataset
from schemas.expect import Expectation

_HASHES = pa.schema([(ROW_ID, pa.int64())])
REPEATED = "repeated"
Kept = Callable[[pa.Table], pa.Table]


@dataclass(frozen=True)
class Counted:
    """What later steps count of valid train rows, and of all valid ones.

    Attributes:
        fields: that the expectations' conditions may name.
        merging: how contributions are merged; None in scoring, which fits nothing.
        contributions_url: of the folder that these are written to.
    """

    expectations: tuple[Expectation, ...] = ()
    fields: tuple[str, ...] = ()
    merging: Merging | None = None
    contributions_url: str = ""


@dataclass(frozen=True)
class JudgingWork:
    """What the tasks are told.

    Attributes:
        shares: the pieces of each of the first tasks.
        parents: that rows are brought together with first.
        kept: what is written of a table of valid rows; None: all their columns.
        of_hashes: parts of hashes. The part after them is what the first tasks say of themselves;
            then come those of contributions.
    """

    engine: Engine
    shares: tuple[tuple[Piece, ...], ...]
    counted: Counted
    url: str
    of_hashes: int
    parents: tuple[LargeParent, ...] = ()
    kept: Kept | None = None

    @property
    def first_of_counts(self) -> int:
        return self.of_hashes + 1

    @property
    def parts(self) -> int:
        merging = self.counted.merging
        return self.first_of_counts + (merging.parts if merging is not None else 0)


# The tasks that judge


def judged_pieces(
    shared: Broadcast[JudgingWork], batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Reads the pieces of a share, and judges their rows."""
    work = shared.value
    source = work.engine.dataset.row_source
    for number in (n for batch in batches for n in batch.column(0).to_pylist()):
        judging = _Judging(work, number)
        yield from judging.run(judging.counted(read_rows(work.shares[number], source)))


def pieces_by_key(
    shared: Broadcast[JudgingWork], batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Reads the pieces of a share, and sends their rows to the parts of the first large parent."""
    work = shared.value
    source, parent = work.engine.dataset.row_source, work.parents[0]
    for number in (n for batch in batches for n in batch.column(0).to_pylist()):
        said = Said()
        try:
            for raw in read_rows(work.shares[number], source):
                sent = 0
                for batch, rows in rows_by_key([raw], work.engine, parent):
                    sent += rows
                    yield batch
                said.read += raw.num_rows
                said.others += raw.num_rows - sent
        except MillstreamError as error:
            said = Said.of(error)
        yield parcel(ASIDE, said.json())


def judged_parts(
    shared: Broadcast[JudgingWork], batches: Iterable[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Judges the rows of some parts of the last large parent."""
    work = shared.value
    context = TaskContext.get()
    assert context is not None
    said: list[bytes] = []

    def tables() -> Iterator[pa.Table]:
        for part, contents in received(batches):
            if part == ASIDE:
                said.extend(content.to_pybytes() for content in contents)
            else:
                yield from with_parent(work.engine, work.parents[-1], part, contents)

    yield from _Judging(work, context.partitionId()).run(tables())
    for one in said:
        yield parcel(work.of_hashes, one)


class _Judging:
    """A task's rows: judged, written, counted and told of."""

    def __init__(self, work: JudgingWork, number: int) -> None:
        context = TaskContext.get()
        # Of each attempt its own files, so that none meets another.
        attempt = context.taskAttemptId() if context is not None else 0
        self._work, self._number, self._name = work, number, f"{number}-{attempt}.parquet"
        self._said = Said()
        merging = work.counted.merging
        self._counter = Counter(merging.groups) if merging is not None else None
        self._hashes: list[Ints] = []

    def counted(self, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """The same tables, whose rows count as read by this task."""
        for table in tables:
            self._said.read += table.num_rows
            yield table

    def run(self, tables: Iterable[pa.Table]) -> Iterator[pa.RecordBatch]:
        try:
            self._judge(tables)
        except MillstreamError as error:
            self._said = Said.of(error)
        else:
            yield from self._parcels()
        yield parcel(self._work.of_hashes, self._said.json())

    def _judge(self, tables: Iterable[pa.Table]) -> None:
        work, said = self._work, self._said
        with (
            RowsWriter(work.url, f"valid-{self._name}") as valid,
            RowsWriter(work.url, f"refused-{self._name}") as refused,
        ):
            for raw in tables:
                judged = work.engine.judge(raw)
                valid.add(self._kept(rows_to_keep(judged, raw, work.engine.dataset)))
                refused.add(judged.refused)
                said.others += judged.others
                said.counts = merged([said.counts, counts_of(judged)])
                expectations = work.counted.expectations
                said.measures = added([said.measures, measured(judged.valid, expectations)])
                self._hashes.append(judged.valid[ROW_ID].to_numpy())
                if self._counter is not None:
                    self._counter.add(judged.valid)
        said.valid, said.refused = valid.file(self._number), refused.file(self._number)

    def _kept(self, valid: pa.Table) -> pa.Table:
        kept = self._work.kept
        return valid if kept is None or not valid.num_rows else kept(valid)

    def _parcels(self) -> Iterator[pa.RecordBatch]:
        work = self._work
        hashes = np.concatenate([*self._hashes, np.zeros(0, np.int64)])
        if len(hashes):
            # By their highest bits.
            part = ((hashes >> 48) + (1 << 15)) * work.of_hashes >> 16
            yield from parcels(pa.table({ROW_ID: hashes}), part.astype(np.int32))
        if self._counter is not None and work.counted.merging is not None:
            yield from work.counted.merging.sent(self._counter, work.first_of_counts)


def rows_to_keep(judged: Judged, raw: pa.Table, dataset: Dataset) -> pa.Table:
    """The valid ones of the raw rows with all that tells repeated ones apart."""
    if dataset.key:
        return judged.valid
    lines = taken(raw[ROW_TEXT], judged.valid_places)
    return judged.valid.append_column(LINE_HASH, line_hashes(lines))


# The tasks after them


def added_up(
    shared: Broadcast[JudgingWork], batches: Iterable[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Adds up what tasks sent; yields what they and these say, as JSON."""
    work = shared.value
    for part, contents in received(batches):
        if part < work.of_hashes:
            said = [json.dumps({REPEATED: _repeated(work.url, part, contents)})]
        elif part == work.of_hashes:
            said = [content.to_pybytes().decode() for content in contents]
        else:
            assert work.counted.merging is not None
            of_counts = part - work.first_of_counts
            work.counted.merging.written(of_counts, contents, work.counted.contributions_url)
            said = []
        yield pa.RecordBatch.from_arrays([pa.array(said, pa.string())], ["said"])


def _repeated(url: str, part: int, contents: Sequence[pa.Buffer]) -> int:
    """Lists the hashes that stand more than once, in a file of the part; returns their number."""
    hashes = np.sort(pa.Table.from_batches(opened(contents, _HASHES))[ROW_ID].to_numpy())
    again = np.unique(hashes[1:][hashes[1:] == hashes[:-1]])
    if len(again):
        with write_stream(f"{url}/{REPEATED}/part-{part}.parquet") as file:
            pq.write_table(pa.table({ROW_ID: again}), file)
    return len(again)
