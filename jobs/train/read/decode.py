"""What a thread of Petastorm's pool does: it reads a row group into the windows that it is part of.

Rows are written in the order of reading. The order of a window is an index beside them, by which
batches take rows: so a row moves once.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.base.errors import DataRefused
from jobs.batch.layout import Layout
from jobs.batch.tensors import Words
from jobs.lake.manifest import Shard
from jobs.petastorm_arrow import WorkerBase
from jobs.stores.errors import is_of_store
from jobs.train.order.plan import Window
from jobs.train.read.columns_to_rows import ColumnsToRows
from jobs.train.read.kept import KeptGroups
from jobs.train.read.memory import MemoryBudget, WindowBuffer
from jobs.train.read.priority import yield_to_training
from jobs.train.read.row_groups import RowGroups

_OPEN_FILES = 8
_ATTEMPTS = 3
_FIRST_BACKOFF_S = 0.1


class WindowRows:
    """The rows of one window in a `WindowBuffer`, while they are read and when all are there.

    Attributes:
        begin: row of the stream that comes first.
        end: row of the stream after the last.
        first: where in `WindowBuffer.rows` and `index` they begin.
        is_ready: whether all rows are there, and their order in `index`.
    """

    def __init__(self, window: Window, first: int, buffer: WindowBuffer) -> None:
        self.begin, self.end = window.begin, window.end
        self.first, self.is_ready = first, False
        self._window, self._buffer = window, buffer
        self._slices_left, self._lock = 0, threading.Lock()

    @property
    def words(self) -> Words:
        """The rows' words in the order of reading, int32 [n, W]."""
        return self._buffer.rows[self.first : self.first + self.end - self.begin]

    def slice_requested(self) -> None:
        """One more row group is to be read for this window."""
        self._slices_left += 1

    def slice_written(self) -> None:
        """The rows of a row group are there. The thread that writes the last ones makes the index,
        which takes long for a large window."""
        with self._lock:
            self._slices_left -= 1
            if self._slices_left:
                return
        index = self._buffer.index[self.first : self.first + self.end - self.begin]
        np.add(self._window.order(), self.first, out=index)
        self.is_ready = True


@dataclass(frozen=True)
class GroupSlice:
    """Consecutive rows of a row group that belong to one window.

    Attributes:
        target: the window's rows.
        first: row of the row group that comes first.
        end: row of the row group after the last.
        at: where in `target.words` they begin.
    """

    target: WindowRows
    first: int
    end: int
    at: int


@dataclass
class GroupRequest:
    """A row group to read once, for all windows that need rows of it.

    Attributes:
        group: its number.
        slices: what of it is needed.
        started: when a thread began with it, by `time.monotonic`; None before that.
        error: why it could not be read.
    """

    group: int
    slices: list[GroupSlice] = field(default_factory=list)
    started: float | None = None
    error: Exception | None = None


class ThreadLocals(threading.local):
    """What a thread keeps from row group to row group: open files, and memory to work in.

    It goes with the thread. A worker would not: Petastorm's pool and its workers refer to each
    other, so that what they hold stays until Python looks for such circles.
    """

    def __init__(self) -> None:
        self.files: OrderedDict[str, pq.ParquetFile] = OrderedDict()
        self.columns_to_rows = ColumnsToRows()


@dataclass(frozen=True)
class DecodeContext:
    """What all threads of a pool share.

    Attributes:
        groups: the row groups.
        timeout_s: longest reading of one.
        stopped: set when the epoch is left.
        kept: row groups that need not be decoded; None where nothing is kept.
        threads: those that read something so far.
    """

    groups: RowGroups
    layout: Layout
    budget: MemoryBudget
    timeout_s: float
    stopped: threading.Event
    kept: KeptGroups | None = None
    local: ThreadLocals = field(default_factory=ThreadLocals)
    threads: set[threading.Thread] = field(default_factory=set)


class DecodeWorker(WorkerBase):  # type: ignore[misc]
    """Petastorm's worker: decodes row groups into windows. Never raises: the pool would print."""

    def __init__(self, worker_id: int, publish: Any, context: DecodeContext) -> None:
        super().__init__(worker_id, publish, context)
        self._context = context

    def process(self, request: GroupRequest) -> None:
        if (thread := threading.current_thread()) not in self._context.threads:
            self._context.threads.add(thread)
            yield_to_training()
        request.started = time.monotonic()
        shard, number = self._context.groups.locate(request.group)
        try:
            self._with_retries(request, request.started, shard, number)
            for one in request.slices:
                one.target.slice_written()
        except Exception as error:
            request.error = self._context.groups.refusal(request.group, error)
        self.publish_func(request)

    def _with_retries(
        self, request: GroupRequest, started: float, shard: Shard, number: int
    ) -> None:
        """A store may fail for a moment; a missing or forbidden file stays so.

        Nothing is tried again in the second half of the time, so that the cause is told, not the
        deadline: a store's own client tries again and again too.
        """
        for attempt in range(_ATTEMPTS):
            try:
                self._decode(request, shard, number)
                return
            except Exception as error:
                self._context.local.files.pop(shard.path, None)
                lasting = isinstance(error, FileNotFoundError | PermissionError)
                final = lasting or not is_of_store(error)
                late = time.monotonic() - started > self._context.timeout_s / 2
                backoff = _FIRST_BACKOFF_S * 4**attempt
                if final or late or attempt == _ATTEMPTS - 1 or self._context.stopped.wait(backoff):
                    raise

    def _decode(self, request: GroupRequest, shard: Shard, number: int) -> None:
        rows = self._kept(shard, number)
        if rows is not None:
            for one in request.slices:
                at = one.at + one.end - one.first
                one.target.words[one.at : at] = rows[one.first : one.end]
            return
        first = 0
        end = max(one.end for one in request.slices)
        for decoded in self._decoded(shard, number):
            columns = self._context.layout.parts(decoded)
            for one in request.slices:
                self._write(columns, first, first + decoded.num_rows, one)
            first += decoded.num_rows
            if first >= end:
                return
        raise DataRefused(f"{first} rows are there", f"at least {end}")

    def _kept(self, shard: Shard, number: int) -> Words | None:
        """A row group that is kept, or can be from now on; None where there is no room for it."""
        kept, layout = self._context.kept, self._context.layout
        if kept is None:
            return None
        scope, group = (self._context.groups.url, *layout.columns), (shard.path, number)
        rows = kept.get(scope, group)
        count = shard.row_group_rows[number]
        if rows is None and kept.has_room(scope, count * layout.row_bytes):
            rows, first = np.empty((count, layout.words), np.int32), 0
            for decoded in self._decoded(shard, number):
                end = first + decoded.num_rows
                self._context.local.columns_to_rows.write(layout.parts(decoded), rows[first:end])
                first = end
            if first != count:
                raise DataRefused(f"{first} rows are there", f"{count}")
            kept.put(scope, group, rows)
        return rows

    def _write(
        self, columns: list[tuple[slice, Words]], begin: int, end: int, wanted: GroupSlice
    ) -> None:
        """Writes the wanted ones of the row group's rows begin .. end-1 to their window.

        Args:
            columns: for each column, its words of a row, and int32 [end - begin, w].
        """
        low, high = max(wanted.first, begin), min(wanted.end, end)
        if low < high:
            chosen = [(place, column[low - begin : high - begin]) for place, column in columns]
            at = wanted.at + low - wanted.first
            self._context.local.columns_to_rows.write(
                chosen, wanted.target.words[at : at + high - low]
            )

    def _decoded(self, shard: Shard, number: int) -> Iterator[pa.RecordBatch]:
        file = self._file(shard)
        found = file.metadata.num_row_groups
        if number >= found:
            raise DataRefused(f"the file has {found} row groups", f"{len(shard.row_group_rows)}")
        rows = file.metadata.row_group(number).num_rows
        if rows != shard.row_group_rows[number]:
            raise DataRefused(f"{rows} rows are there", f"{shard.row_group_rows[number]}")
        wanted, foreign = self._context.layout.columns, self._context.groups.foreign
        columns = foreign.read(wanted) if foreign else wanted
        there = set(file.schema_arrow.names)
        found = [name for name in columns if name in there]
        batches: Iterator[pa.RecordBatch] = file.iter_batches(
            self._context.budget.decode_rows, row_groups=[number], columns=found, use_threads=False
        )
        return foreign.adapted(batches, wanted, shard, number) if foreign else batches

    def _file(self, shard: Shard) -> pq.ParquetFile:
        """The shard's file with its footer; a few stay open."""
        path, files = shard.path, self._context.local.files
        if path not in files:
            while len(files) >= _OPEN_FILES:
                files.popitem(last=False)
            files[path] = self._context.groups.open(shard)
        files.move_to_end(path)
        return files[path]
