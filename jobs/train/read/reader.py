"""Windows are requested, and their row groups decoded by Petastorm's pool of threads.

A request says where in the buffer the window's rows go, and the threads write them there
(`decode.py`). What comes back through the pool is only that a row group is done, or why it is not.
"""

from __future__ import annotations

import atexit
import threading
import time
import weakref
from typing import Any

import numpy as np
import pyarrow as pa

from jobs.base.errors import MillstreamError
from jobs.batch.layout import Layout
from jobs.petastorm_arrow import ThreadPool
from jobs.train.order.plan import Window
from jobs.train.read.decode import (
    DecodeContext,
    DecodeWorker,
    GroupRequest,
    GroupSlice,
    WindowRows,
)
from jobs.train.read.kept import KeptGroups
from jobs.train.read.memory import MemoryBudget, WindowBuffer
from jobs.train.read.row_groups import RowGroups

# What the row groups being read may still take at the end of the process.
_EXIT_S = 2.0


class StoreTimeout(MillstreamError):
    """A row group did not come within `stream.timeout_s`."""


class Stopped(Exception):
    """The epoch was left before its end."""


class Reader:
    """Decodes requested windows with a pool of threads. Used by one thread at a time."""

    def __init__(
        self,
        groups: RowGroups,
        layout: Layout,
        budget: MemoryBudget,
        timeout_s: float,
        kept: KeptGroups | None = None,
    ) -> None:
        self._groups, self._timeout_s = groups, timeout_s
        self._requested: dict[int, GroupRequest] = {}
        self._reading: dict[int, GroupRequest] = {}
        self._stopped = threading.Event()
        # Results are tiny; with a short queue threads would wait for the reader to take them.
        self._pool = ThreadPool(budget.threads, results_queue_size=1 << 16)
        context = DecodeContext(groups, layout, budget, timeout_s, self._stopped, kept)
        self._pool.start(DecodeWorker, context)
        _pools[self._pool] = context.threads

    def request(self, window: Window, start: int, first: int, buffer: WindowBuffer) -> WindowRows:
        """Asks for a window's rows; `send` starts the reading.

        Args:
            start: row of the stream from which on they are needed; a row group with none of these
                is not read.
            first: where in the buffer they go, as `WindowBuffer.take` gave it.
        """
        rows = WindowRows(window, first, buffer)
        # Of the window's p row groups, where in it their rows begin and end: int64 [p] each.
        ends = np.cumsum(window.rows_of)
        begins = ends - window.rows_of
        needed = np.ones(len(ends), bool)
        if start > window.begin:
            # Rows of the window, by their number as read, that are still to come: int64 [n].
            left = window.order()[start - window.begin :]
            needed[:] = False
            needed[np.searchsorted(ends, left, side="right")] = True
        for i in np.flatnonzero(needed).tolist():
            group, low = int(window.groups[i]), int(window.first[i])
            wanted = GroupSlice(rows, low, low + int(window.rows_of[i]), int(begins[i]))
            self._requested.setdefault(group, GroupRequest(group)).slices.append(wanted)
            rows.slice_requested()
        return rows

    def send(self) -> None:
        """Reads what was requested; a row group that several windows need is decoded once."""
        for request in self._requested.values():
            self._reading[id(request)] = request
            self._pool.ventilate(request)
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
        request = self._pool.get_results()
        del self._reading[id(request)]
        if request.error is not None:
            raise request.error

    def is_waiting(self) -> bool:
        """Whether something that was sent was not received yet."""
        return bool(self._reading)

    def check_deadline(self) -> None:
        """Raises StoreTimeout, naming the row group, when one is being read for too long.

        May be called from any thread.
        """
        now = time.monotonic()
        for request in list(self._reading.values()):
            if request.started is not None and now - request.started > self._timeout_s:
                raise StoreTimeout(
                    f"{self._groups.name(request.group)} is being read for "
                    f"{now - request.started:.0f} s",
                    f"at most {self._timeout_s:g} s (stream.timeout_s)",
                    "see whether the store answers, or raise stream.timeout_s",
                )

    def stop(self) -> None:
        """Lets the thread that receives end. May be called from any thread, and does not wait."""
        self._stopped.set()

    def close(self) -> None:
        """Ends the pool's threads, after the row groups that they are at; does not wait for these.

        For the thread that receives: it would wait for ever for a pool that another one stopped.
        """
        self._pool.stop()
        if not self._reading:
            self._pool.join()
            # What Arrow keeps for threads that ended; those of the next epoch are others.
            pa.default_memory_pool().release_unused()


_pools: weakref.WeakKeyDictionary[Any, set[threading.Thread]] = weakref.WeakKeyDictionary()


@atexit.register
def _end_pools() -> None:
    """Daemon threads that the end of Python cuts off in Arrow's code abort the process."""
    until = time.monotonic() + _EXIT_S
    for pool in list(_pools):
        pool.stop()
    for threads in list(_pools.values()):
        for thread in list(threads):
            thread.join(max(0.0, until - time.monotonic()))
