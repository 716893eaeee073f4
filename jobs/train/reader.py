"""Windows are requested, and their row groups decoded by Petastorm's pool of threads.

A window's memory is given with the request, and the threads write there (`decode.py`). What comes
back through the pool is only that a row group is done, or why it is not.
"""

from __future__ import annotations

import threading
import time

import numpy as np

from jobs.errors import MillstreamError
from jobs.petastorm_arrow import ThreadPool
from jobs.train.batch import Layout, Words
from jobs.train.decode import DecodeWorker, Job, Part, Read, Selection, WindowRows, place_of
from jobs.train.memory import Memory
from jobs.train.plan import Window


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
        self._pool.start(DecodeWorker, Job(selection, layout, memory, timeout_s, self._stopped))

    def request(self, window: Window, start: int, words: Words) -> WindowRows:
        """Asks for a window's rows from row `start` of the stream on; `send` starts the reading.

        Args:
            words: where they go, int32 [window.end - start, W].
        """
        rows = WindowRows(start, words)
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
            part = Part(rows, first, places[end - count : end])
            if not skipped or (part.places >= 0).any():
                rows.waiting += 1
                self._requested.setdefault(group, Read(group)).parts.append(part)
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
                    f"{place_of(self._selection, read.group)} is being read for "
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
