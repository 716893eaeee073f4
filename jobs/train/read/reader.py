"""Windows are requested, and their row groups decoded by Petastorm's pool of threads.

A window's slot is given with the request, and the threads write there (`decode.py`). What comes
back through the pool is only that a row group is done, or why it is not.
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
    DecodeWorker,
    Job,
    Part,
    Read,
    Selection,
    WindowRows,
    place_of,
)
from jobs.train.read.memory import Memory, Slots

# What the row groups being read may still take at the end of the process.
_EXIT_S = 2.0


class StoreTimeout(MillstreamError):
    """A row group did not come within `stream.timeout_s`."""


class Stopped(Exception):
    """The epoch was left before its end."""


class Reader:
    """Decodes requested windows with a pool of threads. Used by one thread at a time."""

    def __init__(
        self, selection: Selection, layout: Layout, memory: Memory, timeout_s: float
    ) -> None:
        self._selection, self._timeout_s = selection, timeout_s
        self._requested: dict[int, Read] = {}
        self._reading: dict[int, Read] = {}
        self._stopped = threading.Event()
        # Results are tiny; with a short queue threads would wait for the reader to take them.
        self._pool = ThreadPool(memory.threads, results_queue_size=1 << 16)
        job = Job(selection, layout, memory, timeout_s, self._stopped)
        self._pool.start(DecodeWorker, job)
        _pools[self._pool] = job.threads

    def request(self, window: Window, start: int, slot: int, slots: Slots) -> WindowRows:
        """Asks for a window's rows; `send` starts the reading.

        Args:
            start: row of the stream from which on they are needed; a row group with none of these
                is not read.
            slot: where they go.
        """
        rows = WindowRows(window, slot, slots)
        ends = np.cumsum(window.rows_of)
        begins = ends - window.rows_of
        needed = np.ones(len(ends), bool)
        if start > window.begin:
            left = window.order()[start - window.begin :]
            needed[:] = False
            needed[np.searchsorted(ends, left, side="right")] = True
        for piece in np.flatnonzero(needed).tolist():
            group, first = int(window.groups[piece]), int(window.first[piece])
            end = first + int(window.rows_of[piece])
            part = Part(rows, first, end, int(begins[piece]))
            self._requested.setdefault(group, Read(group)).parts.append(part)
            rows.expect()
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

    def is_waiting(self) -> bool:
        """Whether something that was sent was not received yet."""
        return bool(self._reading)

    def check_deadline(self) -> None:
        """Raises StoreTimeout, naming the row group, when one is being read for too long.

        May be called from any thread.
        """
        now = time.monotonic()
        for read in list(self._reading.values()):
            if read.started is not None and now - read.started > self._timeout_s:
                raise StoreTimeout(
                    f"{place_of(self._selection, read.group)} is being read for "
                    f"{now - read.started:.0f} s",
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
