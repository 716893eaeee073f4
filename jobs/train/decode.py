"""One row group to rows of windows: what a thread of Petastorm's pool does.

Columns are put side by side once, and each row is then copied whole to its place in its window's
order.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from jobs.errors import DataRefused, MillstreamError
from jobs.manifest import Shard
from jobs.petastorm_arrow import WorkerBase
from jobs.store import is_of_client
from jobs.train.batch import Layout, Words, items
from jobs.train.foreign import ForeignColumns
from jobs.train.memory import Memory
from jobs.train.plan import Ints
from jobs.train.transposition import Transposition

_OPEN_FILES = 8
_ATTEMPTS = 3
_FIRST_BACKOFF_S = 0.1


class Selection:
    """The row groups of some shards, numbered in the order of the shards.

    Attributes:
        url: of the examples.
        shards: in order of (ds, split, number).
        foreign: what makes others' columns those of the declaration; None for examples.
        group_rows: int64 [R].
    """

    def __init__(
        self, url: str, shards: list[Shard], foreign: ForeignColumns | None = None
    ) -> None:
        self.url, self.shards, self.foreign = url, shards, foreign
        counts = np.array([len(shard.row_group_rows) for shard in shards], np.int64)
        self._first = np.cumsum(counts) - counts
        self.group_rows: Ints = np.fromiter(
            (rows for shard in shards for rows in shard.row_group_rows), np.int64
        )

    def locate(self, group: int) -> tuple[Shard, int]:
        """The shard that holds a row group, and its number there."""
        shard = int(np.searchsorted(self._first, group, side="right")) - 1
        return self.shards[shard], group - int(self._first[shard])


class WindowRows:
    """The rows of a window in their order, filled in as its row groups arrive.

    Attributes:
        begin: row of the stream that comes first; later than the window's own on a resume.
        end: row of the stream after the last.
        words: int32 [end - begin, W].
        waiting: parts that did not arrive yet.
    """

    def __init__(self, begin: int, words: Words) -> None:
        self.begin, self.end = begin, begin + len(words)
        self.words = words
        self.waiting = 0


@dataclass(frozen=True)
class Part:
    """Rows of a row group that belong to one window.

    `places` are those of the rows in the window's order, less what is skipped: negative ones are
    rows consumed before.
    """

    target: WindowRows
    first: int
    places: Ints

    @property
    def end(self) -> int:
        return self.first + len(self.places)


@dataclass
class Read:
    """One row group to decode, for all parts of it that were asked for together."""

    group: int
    parts: list[Part] = field(default_factory=list)
    started: float | None = None
    error: Exception | None = None


@dataclass(frozen=True)
class Job:
    """What all threads of a pool share."""

    selection: Selection
    layout: Layout
    memory: Memory
    timeout_s: float
    stopped: threading.Event


class DecodeWorker(WorkerBase):  # type: ignore[misc]
    """Petastorm's worker: decodes row groups into windows. Never raises: the pool would print."""

    def __init__(self, worker_id: int, publish: Any, job: Job) -> None:
        super().__init__(worker_id, publish, job)
        self._job = job
        self._files: OrderedDict[str, pq.ParquetFile] = OrderedDict()
        self._transposition = Transposition()
        self._rows: Words = np.empty((job.memory.decode_rows, job.layout.words), np.int32)

    def process(self, read: Read) -> None:
        read.started = time.monotonic()
        shard, number = self._job.selection.locate(read.group)
        try:
            self._with_retries(read, read.started, shard, number)
        except Exception as error:
            read.error = _refusal(self._job.selection, read.group, error)
        self.publish_func(read)

    def _with_retries(self, read: Read, started: float, shard: Shard, number: int) -> None:
        """A store may fail for a moment; a missing or forbidden file stays so.

        Nothing is tried again in the second half of the time, so that the cause is told, not the
        deadline: a store's own client tries again and again too.
        """
        for attempt in range(_ATTEMPTS):
            try:
                self._decode(read, shard, number)
                return
            except Exception as error:
                self._files.pop(shard.path, None)
                lasting = isinstance(error, FileNotFoundError | PermissionError)
                final = lasting or not (isinstance(error, OSError) or is_of_client(error))
                late = time.monotonic() - started > self._job.timeout_s / 2
                backoff = _FIRST_BACKOFF_S * 4**attempt
                if final or late or attempt == _ATTEMPTS - 1 or self._job.stopped.wait(backoff):
                    raise

    def _decode(self, read: Read, shard: Shard, number: int) -> None:
        first = 0
        end = max(part.end for part in read.parts)
        for decoded in self._decoded(shard, number):
            rows = self._rows[: decoded.num_rows]
            self._transposition.write(self._job.layout.parts(decoded), rows)
            for part in read.parts:
                _put(rows, first, part)
            first += len(rows)
            if first >= end:
                return
        raise DataRefused(f"{first} rows are there", f"at least {end}")

    def _decoded(self, shard: Shard, number: int) -> Iterator[pa.RecordBatch]:
        file = self._file(shard)
        found = file.metadata.num_row_groups
        if number >= found:
            raise DataRefused(f"the file has {found} row groups", f"{len(shard.row_group_rows)}")
        rows = file.metadata.row_group(number).num_rows
        if rows != shard.row_group_rows[number]:
            raise DataRefused(f"{rows} rows are there", f"{shard.row_group_rows[number]}")
        wanted, foreign = self._job.layout.columns, self._job.selection.foreign
        columns = foreign.read(wanted) if foreign else wanted
        found = [name for name in columns if name in file.schema_arrow.names]
        batches: Iterator[pa.RecordBatch] = file.iter_batches(
            self._job.memory.decode_rows, row_groups=[number], columns=found, use_threads=False
        )
        return foreign.adapted(batches, wanted, shard, number) if foreign else batches

    def _file(self, shard: Shard) -> pq.ParquetFile:
        """The shard's file with its footer; a few stay open."""
        path = shard.path
        if path not in self._files:
            while len(self._files) >= _OPEN_FILES:
                self._files.popitem(last=False)[1].close()
            selection = self._job.selection
            size = shard.bytes if selection.foreign else None
            self._files[path] = _open(f"{selection.url}/{path}", size)
        self._files.move_to_end(path)
        return self._files[path]


def _open(url: str, size: int | None) -> pq.ParquetFile:
    """Opens a shard, of a given size; pages are checked against the checksums that Spark writes.

    Raises:
        DataRefused: it has another size.
    """
    fs, path = fsspec.core.url_to_fs(url)
    if type(fs) is LocalFileSystem:
        _check_size(Path(path).stat().st_size, size)
        return pq.ParquetFile(path, page_checksum_verification=True)
    # One request for the columns of a row group; the file's own read-ahead would fetch more.
    file = fs.open(path, "rb", cache_type="none")
    _check_size(file.size, size)
    return pq.ParquetFile(file, pre_buffer=True, page_checksum_verification=True)


def _check_size(found: int, expected: int | None) -> None:
    if expected is not None and found != expected:
        raise DataRefused(f"the file has {found} bytes by now", f"{expected}")


def _put(rows: Words, first: int, part: Part) -> None:
    """Copies rows, which begin at row `first` of the row group, to their places in the window."""
    low, high = max(part.first, first), min(part.end, first + len(rows))
    if low >= high:
        return
    places = part.places[low - part.first : high - part.first]
    rows, window = rows[low - first : high - first], part.target.words
    kept = places >= 0
    if not kept.all():
        places, rows = places[kept], rows[kept]
    if len(places) == len(window):
        # A window of these rows alone is gathered, which takes half the time of scattering.
        order = np.empty_like(places)
        order[places] = np.arange(len(places))
        np.take(rows, order, axis=0, out=window, mode="clip")
    else:
        items(window)[places] = items(rows)


def _refusal(selection: Selection, group: int, error: Exception) -> MillstreamError:
    place = place_of(selection, group)
    shard, _ = selection.locate(group)
    cause = (
        error.found if isinstance(error, MillstreamError) else f"{type(error).__name__}: {error}"
    )
    if selection.foreign:
        expected, remedy = "the rows that its footer told of", "restore the file, or look again"
    else:
        expected = "the rows that the ETL wrote"
        remedy = f"restore the file, or run the ETL of {shard.ds} again"
    if isinstance(error, MillstreamError):
        expected = error.expected
    return DataRefused(f"{place}: {cause}", expected, remedy)


def place_of(selection: Selection, group: int) -> str:
    shard, number = selection.locate(group)
    return f"row group {number} of shard {selection.url}/{shard.path}"
