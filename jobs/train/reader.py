"""Row groups to rows of windows, read and decoded by Petastorm's pool of threads.

A window's memory is allocated when it is requested; the threads write each decoded row straight to
its place in the window's order, so shuffling costs one copy of the row. What comes back through
the pool is only that a row group is done, or why it is not.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from jobs.errors import DataRefused, MillstreamError
from jobs.manifest import Shard
from jobs.petastorm_arrow import ThreadPool, WorkerBase
from jobs.train.batch import Layout, Words
from jobs.train.plan import Ints, Window

# Decoded rows in a chunk: enough to make calls cheap, few enough to stay in the cache.
CHUNK_BYTES = 1 << 20
_OPEN_FILES = 8
_ATTEMPTS = 3
_FIRST_BACKOFF_S = 0.1


class StoreTimeout(MillstreamError):
    """A row group did not come within `stream.timeout_s`."""


class Stopped(Exception):
    """The epoch was left before its end."""


class Selection:
    """The row groups of some shards, numbered in the order of the shards.

    Attributes:
        url: of the examples.
        shards: in order of (ds, split, number).
        group_rows: int64 [R].
    """

    def __init__(self, url: str, shards: list[Shard]) -> None:
        self.url, self.shards = url, shards
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

    def __init__(self, window: Window, start: int, row_words: int) -> None:
        self.begin, self.end = max(window.begin, start), window.end
        self.words: Words = np.empty((self.end - self.begin, row_words), np.int32)
        self.waiting = 0


@dataclass(frozen=True)
class _Part:
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
class _Read:
    """One row group to decode, for all parts of it that were asked for together."""

    group: int
    parts: list[_Part] = field(default_factory=list)
    started: float | None = None
    error: Exception | None = None


@dataclass(frozen=True)
class _Job:
    """What all threads of a pool share."""

    selection: Selection
    layout: Layout
    stopped: threading.Event


class _DecodeWorker(WorkerBase):  # type: ignore[misc]
    """Petastorm's worker: decodes row groups into windows. Never raises: the pool would print."""

    def __init__(self, worker_id: int, publish: Any, job: _Job) -> None:
        super().__init__(worker_id, publish, job)
        self._job = job
        self._files: OrderedDict[str, pq.ParquetFile] = OrderedDict()
        self._chunk_rows = max(1, min(8192, CHUNK_BYTES // job.layout.row_bytes))

    def process(self, read: _Read) -> None:
        read.started = time.monotonic()
        shard, number = self._job.selection.locate(read.group)
        try:
            self._with_retries(read, shard, number)
        except Exception as error:
            read.error = _refusal(self._job.selection, read.group, error)
        self.publish_func(read)

    def _with_retries(self, read: _Read, shard: Shard, number: int) -> None:
        """A store may fail for a moment; a missing or forbidden file stays so."""
        for attempt in range(_ATTEMPTS):
            try:
                self._decode(read, shard, number)
                return
            except OSError as error:
                self._files.pop(shard.path, None)
                final = isinstance(error, FileNotFoundError | PermissionError)
                backoff = _FIRST_BACKOFF_S * 4**attempt
                if final or attempt == _ATTEMPTS - 1 or self._job.stopped.wait(backoff):
                    raise

    def _decode(self, read: _Read, shard: Shard, number: int) -> None:
        first = 0
        end = max(part.end for part in read.parts)
        for rows in self._chunks(shard, number):
            parts = [part for part in read.parts if part.first < first + rows.num_rows]
            if any(part.end > first for part in parts):
                words = self._job.layout.encode(rows)
                for part in parts:
                    _put(words, first, part)
            first += rows.num_rows
            if first >= end:
                return
        raise DataRefused(f"{first} rows are there", f"at least {end}")

    def _chunks(self, shard: Shard, number: int) -> Iterator[pa.RecordBatch]:
        file = self._file(shard.path)
        found = file.metadata.num_row_groups
        if number >= found:
            raise DataRefused(f"the file has {found} row groups", f"{len(shard.row_group_rows)}")
        rows = file.metadata.row_group(number).num_rows
        if rows != shard.row_group_rows[number]:
            raise DataRefused(f"{rows} rows are there", f"{shard.row_group_rows[number]}")
        columns = [name for name in self._job.layout.columns if name in file.schema_arrow.names]
        chunks: Iterator[pa.RecordBatch] = file.iter_batches(
            self._chunk_rows, row_groups=[number], columns=columns, use_threads=False
        )
        return chunks

    def _file(self, path: str) -> pq.ParquetFile:
        """The shard's file with its footer; a few stay open."""
        if path not in self._files:
            while len(self._files) >= _OPEN_FILES:
                self._files.popitem(last=False)[1].close()
            self._files[path] = _open(f"{self._job.selection.url}/{path}")
        self._files.move_to_end(path)
        return self._files[path]


def _open(url: str) -> pq.ParquetFile:
    fs, path = fsspec.core.url_to_fs(url)
    if isinstance(fs, LocalFileSystem):
        return pq.ParquetFile(path)
    # One request for the columns of a row group; the file's own read-ahead would fetch more.
    return pq.ParquetFile(fs.open(path, "rb", cache_type="none"), pre_buffer=True)


def _put(words: Words, first: int, part: _Part) -> None:
    """Writes a chunk's rows, which begin at row `first` of the row group, to their places."""
    low, high = max(part.first, first), min(part.end, first + len(words))
    if low >= high:
        return
    places = part.places[low - part.first : high - part.first]
    rows = words[low - first : high - first]
    kept = places >= 0
    if not kept.all():
        places, rows = places[kept], rows[kept]
    # As single items, rows are copied whole instead of word by word.
    _items(part.target.words)[places] = _items(rows)


def _items(words: Words) -> npt.NDArray[np.void]:
    return words.view(np.dtype((np.void, 4 * words.shape[1])))[:, 0]


def _refusal(selection: Selection, group: int, error: Exception) -> MillstreamError:
    place = _place(selection, group)
    shard, _ = selection.locate(group)
    cause = (
        error.found if isinstance(error, MillstreamError) else f"{type(error).__name__}: {error}"
    )
    return DataRefused(
        f"{place}: {cause}",
        error.expected if isinstance(error, MillstreamError) else "the rows that the ETL wrote",
        f"restore the file, or run the ETL of {shard.ds} again",
    )


def _place(selection: Selection, group: int) -> str:
    shard, number = selection.locate(group)
    return f"row group {number} of shard {selection.url}/{shard.path}"


class Reader:
    """Decodes requested windows with a pool of threads. Used by one thread at a time."""

    def __init__(
        self, selection: Selection, layout: Layout, threads: int, timeout_s: float
    ) -> None:
        self._selection, self._layout, self._timeout_s = selection, layout, timeout_s
        self._requested: dict[int, _Read] = {}
        self._reading: dict[int, _Read] = {}
        self._stopped = threading.Event()
        # Results are tiny; with a short queue threads would wait for the reader to take them.
        self._pool = ThreadPool(threads, results_queue_size=1 << 16)
        self._pool.start(_DecodeWorker, _Job(selection, layout, self._stopped))

    def request(self, window: Window, start: int) -> WindowRows:
        """Asks for a window's rows from row `start` of the stream on; `send` starts the reading."""
        rows = WindowRows(window, start, self._layout.words)
        places = window.places()
        skipped = rows.begin - window.begin
        if skipped:
            places = places - skipped
        ends = np.cumsum(window.rows_of)
        for group, first, end, count in zip(
            window.groups.tolist(),
            window.first.tolist(),
            ends.tolist(),
            window.rows_of.tolist(),
            strict=True,
        ):
            part = _Part(rows, first, places[end - count : end])
            if not skipped or (part.places >= 0).any():
                rows.waiting += 1
                self._requested.setdefault(group, _Read(group)).parts.append(part)
        return rows

    def send(self) -> None:
        """Reads what was requested; a row group that several windows need is decoded once."""
        for read in self._requested.values():
            self._reading[id(read)] = read
            self._pool.ventilate(read)
        self._requested = {}

    def receive(self) -> None:
        """Waits until one row group is done.

        Raises:
            DataRefused: it cannot be read; names shard, row group and cause.
            Stopped: `stop` was called.
        """
        if self._stopped.is_set():
            raise Stopped
        # The pool's own end-of-data check is safe here: this thread alone sends and receives.
        read = self._pool.get_results()
        del self._reading[id(read)]
        if read.error is not None:
            raise read.error
        for part in read.parts:
            part.target.waiting -= 1

    def check_deadline(self) -> None:
        """Raises StoreTimeout, naming the row group, when one is being read for too long.

        May be called from any thread.
        """
        now = time.monotonic()
        for read in list(self._reading.values()):
            if read.started is not None and now - read.started > self._timeout_s:
                raise StoreTimeout(
                    f"{_place(self._selection, read.group)} is being read for "
                    f"{now - read.started:.0f} s",
                    f"at most {self._timeout_s:g} s (stream.timeout_s)",
                    "see whether the store answers, or raise stream.timeout_s",
                )

    def stop(self) -> None:
        """Lets the thread that receives end. May be called from any thread, and does not wait."""
        self._stopped.set()

    def close(self) -> None:
        """Ends the pool's threads, after the row groups that they are at; does not wait.

        For the thread that receives: it would wait for ever for a pool that another one stopped.
        """
        self._pool.stop()
