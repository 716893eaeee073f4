"""Duplicates: of valid rows with one key the first by (raw text, source file) stays.

A row without a key is identified by its line and the line's ordinal among identical ones, all of
which stay. Only rows whose hash stands twice are looked at: tasks find them in the files of judged
rows and send them to tasks after them, which put rows of one key in order. What these find is kept
beside the files of judged rows, as patches that the scan applies.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark import Broadcast

from jobs.base.workers import in_workers
from jobs.etl.judge.files import FILE, NEW_ID, PATCHES, ROW_NUMBER, JudgedFile
from jobs.etl.judge.judging import JudgedRows
from jobs.etl.judge.tasks import REPEATED
from jobs.etl.parcels import PARCELS, Ints, exchanged, received, stream_parcels, streamed
from jobs.rows.base.arrays import without_dictionaries
from jobs.rows.base.groups import ChunkedRows, bytes_of_rows, cut_rows
from jobs.rows.base.names import DS, DUPLICATE_KEY, LINE_HASH, RAW, SOURCE_FILE, SPLIT
from jobs.rows.judge.identity import row_ids_of_lines
from jobs.rows.judge.judged import REFUSED
from jobs.stores.files import write_stream
from schemas.dataset import ROW_ID, Dataset

# A key may have any name that does not begin so.
_FILE, _ROW = "__file", "__row"
_DUPLICATES = "duplicates"
# A task looks up so many hashes at a time, 128 MB; for more, the files are looked through again.
_HASHES_AT_ONCE = 16_000_000
_HASHES_PER_PART = 100_000
_GROUP_ROWS = 65_536


def without_duplicates(rows: JudgedRows, dataset: Dataset) -> JudgedRows:
    """The rows after repetitions of a key are refused, or repeated lines have ids of their own."""
    if not rows.repeated:
        return rows
    lost: dict[str, Counter[str]] = defaultdict(Counter)
    refused = list(rows.refused)
    rounds = -(-rows.repeated // _HASHES_AT_ONCE)
    parts = -(-rows.repeated // rounds // _HASHES_PER_PART)
    for number in range(rounds):
        work = _Work(rows.valid.url, rows.valid.files, dataset, number, rounds, parts)
        for said in _found(rows, work):
            if said["file"]:
                groups = tuple(said["row_group_rows"])
                refused.append(JudgedFile(-1, said["file"], groups, said["bytes"]))
            for ds, split, count in said["lost"]:
                lost[ds][split] += count
    counts = {ds: one.without_duplicates(lost[ds]) for ds, one in rows.counts.items()}
    valid = replace(rows.valid, patches=True)
    return replace(rows, valid=valid, counts=counts, refused=tuple(refused))


@dataclass(frozen=True)
class _Work:
    """What the tasks of a round are told.

    Attributes:
        files: of judged rows, below the run's folder `url`.
        round, rounds: which share of the repeated hashes is looked up.
        parts: that the rows are brought together in, by their hashes.
    """

    url: str
    files: tuple[JudgedFile, ...]
    dataset: Dataset
    round: int
    rounds: int
    parts: int

    @property
    def same(self) -> list[str]:
        """Columns that are equal in rows of one key, or of one line."""
        return [DS, *self.dataset.key] if self.dataset.key else [ROW_ID]

    @property
    def order(self) -> list[str]:
        """Columns by which such rows are ordered. Of identical lines the same is stored, whichever
        comes first."""
        return [*([RAW, SOURCE_FILE] if self.dataset.key else [LINE_HASH]), _FILE, _ROW]


def _found(rows: JudgedRows, work: _Work) -> list[dict[str, Any]]:
    """What the parts say of a round: rows lost, and the file of these."""
    spark = rows.valid.spark
    cores = spark.sparkContext.defaultParallelism
    shared = spark.sparkContext.broadcast(work)
    tasks = min(len(work.files), 4 * cores)
    sent = in_workers(spark.range(0, tasks, 1, tasks), partial(_sent, shared, tasks), PARCELS)
    said = in_workers(
        exchanged(sent, min(work.parts, 4 * cores)), partial(_patched, shared), "said string"
    )
    return [json.loads(row[0]) for row in said.collect()]


# The tasks that look rows up


def _sent(
    shared: Broadcast[_Work], tasks: int, numbers: Iterable[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    work = shared.value
    fs, root = fsspec.core.url_to_fs(work.url)
    paths = sorted(fs.glob(f"{root}/{REPEATED}/*.parquet"))[work.round :: work.rounds]
    hashes = np.sort(
        np.concatenate([np.zeros(0, np.int64), *(_column(fs, path, ROW_ID) for path in paths)])
    )
    mine = [f for b in numbers for n in b.column(0).to_pylist() for f in work.files[n::tasks]]
    for file in mine if len(hashes) else []:
        with pq.ParquetFile(f"{root}/{file.path}", filesystem=fs) as opened:
            for table in _repeated(opened, hashes, file, work):
                part = ((table[ROW_ID].to_numpy() >> 48) + (1 << 15)) * work.parts >> 16
                yield from stream_parcels(table, part.astype(np.int32))


def _column(fs: fsspec.AbstractFileSystem, path: str, name: str) -> Ints:
    values: Ints = pq.read_table(path, filesystem=fs, columns=[name], partitioning=None)[
        name
    ].to_numpy()
    return values


def _repeated(
    opened: pq.ParquetFile, hashes: Ints, file: JudgedFile, work: _Work
) -> Iterator[pa.Table]:
    """Of each row group the rows that have one of the hashes, with what orders them.

    Args:
        hashes: ascending [n].
    """
    first, names = 0, _needed(work.dataset, opened.schema_arrow.names)
    for group, count in enumerate(file.row_group_rows):
        ids = opened.read_row_group(group, [ROW_ID], use_threads=False)[ROW_ID].to_numpy()
        places = np.minimum(np.searchsorted(hashes, ids), len(hashes) - 1)
        found = np.flatnonzero(hashes[places] == ids)
        if len(found):
            table = opened.read_row_group(group, names, use_threads=False).take(pa.array(found))
            table = without_dictionaries(table)
            table = table.append_column(_FILE, pa.array(np.full(len(found), file.number)))
            yield table.append_column(_ROW, pa.array(found + first))
        first += count


def _needed(dataset: Dataset, held: Sequence[str]) -> list[str]:
    """The columns that say which of some rows is the first; of rows with a key, those that the
    quarantine wants, too."""
    if not dataset.key:
        return [ROW_ID, LINE_HASH]
    names = dict.fromkeys([ROW_ID, DS, *dataset.key, RAW, SOURCE_FILE])
    return [*names, *(name for name in [SPLIT] if name in held)]


# The tasks that put them in order


def _patched(
    shared: Broadcast[_Work], batches: Iterable[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Writes the patches of each part, and the rows that it refuses; yields what it found."""
    work = shared.value
    for part, contents in received(batches):
        # Their bytes may be in a mapped file: only what is taken of them comes to memory.
        rows = streamed(contents)
        by = [(name, "ascending") for name in (*work.same, *work.order)]
        order = pc.sort_indices(rows, sort_keys=by).to_numpy().astype(np.int64)
        ordinals = _ordinals(rows.select(work.same), order)
        later = order[ordinals > 1]
        _write_patch(work, part, rows, later, ordinals[ordinals > 1])
        said = _refused(work, part, rows, later) if work.dataset.key else {"file": "", "lost": []}
        yield pa.RecordBatch.from_arrays([pa.array([json.dumps(said)])], ["said"])


def _ordinals(same: pa.Table, order: Ints) -> npt.NDArray[np.int32]:
    """The place of each row among those alike, which stand together in this order, from 1 [n]."""
    starts, rows = np.zeros(len(order), bool), ChunkedRows(same)
    starts[:1] = True
    for start in range(1, len(order), _GROUP_ROWS):
        own = rows.take(order[start - 1 : start + _GROUP_ROWS])
        for column in own.columns:
            unequal = pc.not_equal(column.slice(1), column.slice(0, len(column) - 1))
            starts[start : start + _GROUP_ROWS] |= np.asarray(unequal)
    places = np.arange(len(order))
    first = np.maximum.accumulate(np.where(starts, places, 0))
    found: npt.NDArray[np.int32] = (places - first + 1).astype(np.int32)
    return found


def _write_patch(
    work: _Work, part: int, rows: pa.Table, later: Ints, ordinals: npt.NDArray[np.int32]
) -> None:
    files, places, ids = (rows[name].to_numpy()[later] for name in (_FILE, _ROW, ROW_ID))
    none = pa.nulls(len(later), pa.int64())
    new = none if work.dataset.key else pa.array(row_ids_of_lines(ids, ordinals))
    patch = pa.table({FILE: files, ROW_NUMBER: places, NEW_ID: new})
    patch = patch.sort_by([(FILE, "ascending"), (ROW_NUMBER, "ascending")])
    with write_stream(f"{work.url}/{PATCHES}/{work.round}-{part}.parquet") as file:
        pq.write_table(patch, file, row_group_size=_GROUP_ROWS)


def _refused(work: _Work, part: int, rows: pa.Table, later: Ints) -> dict[str, Any]:
    """Writes the rows that repeat a key as refused ones; says how many, by date and split."""
    path = f"{_DUPLICATES}/{work.round}-{part}.parquet"
    lost: Counter[tuple[str, str]] = Counter()
    groups = []
    chunks, sizes = ChunkedRows(rows), bytes_of_rows(rows.select([RAW, SOURCE_FILE]))[later]
    with (
        write_stream(f"{work.url}/{path}") as file,
        pq.ParquetWriter(file, REFUSED) as writer,
    ):
        for group in cut_rows(sizes, _GROUP_ROWS):
            own = chunks.take(later[group])
            reasons = pa.array([[DUPLICATE_KEY]] * own.num_rows, pa.list_(pa.string()))
            columns = [reasons, *(own[name] for name in (RAW, SOURCE_FILE, DS))]
            writer.write_table(pa.table(columns, REFUSED.names).cast(REFUSED))
            groups.append(own.num_rows)
            splits = own[SPLIT] if SPLIT in own.column_names else pa.repeat("", own.num_rows)
            counted = pa.table([own[DS], splits], [DS, SPLIT]).group_by([DS, SPLIT])
            for row in counted.aggregate([([], "count_all")]).to_pylist():
                lost[row[DS], row[SPLIT]] += row["count_all"]
    by_split = [[*key, count] for key, count in lost.items()]
    size = int(sizes.sum())
    return {
        "file": path if groups else "",
        "row_group_rows": groups,
        "bytes": size,
        "lost": by_split,
    }
