"""One row group to rows of windows: what a thread of Petastorm's pool does.

Columns are put side by side where their windows are kept, in the order of reading. Shuffling is
left to the making of batches, which takes each row from there.
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

from jobs.base.errors import DataRefused, MillstreamError
from jobs.batch.layout import Layout
from jobs.batch.tensors import Words
from jobs.lake.manifest import Shard
from jobs.lake.store import is_of_client
from jobs.petastorm_arrow import WorkerBase
from jobs.train.order.plan import Ints, Window
from jobs.train.read.columns_to_rows import Transposition
from jobs.train.read.foreign import ForeignColumns
from jobs.train.read.memory import Memory, Slots

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
        self._fs, self._root = fsspec.core.url_to_fs(url)
        counts = np.array([len(shard.row_group_rows) for shard in shards], np.int64)
        self._first = np.cumsum(counts) - counts
        self.group_rows: Ints = np.fromiter(
            (rows for shard in shards for rows in shard.row_group_rows), np.int64
        )

    def locate(self, group: int) -> tuple[Shard, int]:
        """The shard that holds a row group, and its number there."""
        shard = int(self._first.searchsorted(group, "right")) - 1
        return self.shards[shard], group - int(self._first[shard])

    def open(self, shard: Shard) -> pq.ParquetFile:
        """Opens a shard; pages are checked against the checksums that Spark writes.

        Raises:
            DataRefused: others' file has another size by now.
        """
        path, size = f"{self._root}/{shard.path}", shard.bytes if self.foreign else None
        if type(self._fs) is LocalFileSystem:
            _check_size(Path(path).stat().st_size, size)
            return pq.ParquetFile(pa.OSFile(path), page_checksum_verification=True)
        # One request for the columns of a row group; the file's own read-ahead would fetch more.
        file = self._fs.open(path, "rb", cache_type="none")
        _check_size(file.size, size)
        return pq.ParquetFile(file, pre_buffer=True, page_checksum_verification=True)


class WindowRows:
    """The rows of a window as they are read, and once all have come, where they are in its order.

    Attributes:
        begin: row of the stream that comes first.
        end: row of the stream after the last.
        first: where in `Slots.rows` and `Slots.places` they begin.
        is_ready: whether all have come.
    """

    def __init__(self, window: Window, slot: int, slots: Slots) -> None:
        self.begin, self.end = window.begin, window.end
        self.first, self.is_ready = slot, False
        self._window, self._slots = window, slots
        self._waiting, self._of_waiting = 0, threading.Lock()

    @property
    def words(self) -> Words:
        """Where the rows go as they are read, int32 [n, W]."""
        return self._slots.rows[self.first : self.first + self.end - self.begin]

    def expect(self) -> None:
        """A part of them was asked for."""
        self._waiting += 1

    def arrived(self) -> None:
        """A part of them was written; the thread that brings the last works out their order."""
        with self._of_waiting:
            self._waiting -= 1
            if self._waiting:
                return
        places = self._slots.places[self.first : self.first + self.end - self.begin]
        np.add(self._window.order(), self.first, out=places)
        self.is_ready = True


@dataclass(frozen=True)
class Part:
    """Rows of a row group that belong to one window.

    Attributes:
        first: row of the row group that comes first.
        end: row of the row group after the last.
        at: where of the window's words they begin.
    """

    target: WindowRows
    first: int
    end: int
    at: int


@dataclass
class Read:
    """One row group to decode, for all parts of it that were asked for together."""

    group: int
    parts: list[Part] = field(default_factory=list)
    started: float | None = None
    error: Exception | None = None


class Kept(threading.local):
    """What a thread keeps from row group to row group: open files, and memory to work in.

    It goes with the thread. A worker would not: Petastorm's pool and its workers refer to each
    other, so that what they hold stays until Python looks for such circles.
    """

    def __init__(self) -> None:
        self.files: OrderedDict[str, pq.ParquetFile] = OrderedDict()
        self.transposition = Transposition()


@dataclass(frozen=True)
class Job:
    """What all threads of a pool share. `threads` are those that read something."""

    selection: Selection
    layout: Layout
    memory: Memory
    timeout_s: float
    stopped: threading.Event
    kept: Kept = field(default_factory=Kept)
    threads: set[threading.Thread] = field(default_factory=set)


class DecodeWorker(WorkerBase):  # type: ignore[misc]
    """Petastorm's worker: decodes row groups into windows. Never raises: the pool would print."""

    def __init__(self, worker_id: int, publish: Any, job: Job) -> None:
        super().__init__(worker_id, publish, job)
        self._job = job

    def process(self, read: Read) -> None:
        self._job.threads.add(threading.current_thread())
        read.started = time.monotonic()
        shard, number = self._job.selection.locate(read.group)
        try:
            self._with_retries(read, read.started, shard, number)
            for part in read.parts:
                part.target.arrived()
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
                self._job.kept.files.pop(shard.path, None)
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
            columns = self._job.layout.parts(decoded)
            for part in read.parts:
                self._write(columns, first, first + decoded.num_rows, part)
            first += decoded.num_rows
            if first >= end:
                return
        raise DataRefused(f"{first} rows are there", f"at least {end}")

    def _write(self, columns: list[tuple[slice, Words]], begin: int, end: int, part: Part) -> None:
        """Writes what of rows begin .. end-1 of the row group belongs to a window."""
        low, high = max(part.first, begin), min(part.end, end)
        if low < high:
            chosen = [(place, column[low - begin : high - begin]) for place, column in columns]
            at = part.at + low - part.first
            self._job.kept.transposition.write(chosen, part.target.words[at : at + high - low])

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
        there = set(file.schema_arrow.names)
        found = [name for name in columns if name in there]
        batches: Iterator[pa.RecordBatch] = file.iter_batches(
            self._job.memory.decode_rows, row_groups=[number], columns=found, use_threads=False
        )
        return foreign.adapted(batches, wanted, shard, number) if foreign else batches

    def _file(self, shard: Shard) -> pq.ParquetFile:
        """The shard's file with its footer; a few stay open."""
        path, files = shard.path, self._job.kept.files
        if path not in files:
            while len(files) >= _OPEN_FILES:
                files.popitem(last=False)
            files[path] = self._job.selection.open(shard)
        files.move_to_end(path)
        return files[path]


def _check_size(found: int, expected: int | None) -> None:
    if expected is not None and found != expected:
        raise DataRefused(f"the file has {found} bytes by now", f"{expected}")


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
