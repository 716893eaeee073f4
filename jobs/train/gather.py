"""Rows of windows to batches, by several threads, while the next batches are planned."""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

import numpy as np

from jobs.train.batch import Batch, Layout, Words, items
from jobs.train.filling import Unfilled
from jobs.train.memory import PIECE_BYTES
from jobs.train.plan import Ints


class Gathering:
    """Threads that copy rows to batches, by way of pieces that fit the cache.

    Args:
        rows: int32 [r, W], from where they come.
        layout: of a row.
        threads: their number.
    """

    def __init__(self, rows: Words, layout: Layout, threads: int) -> None:
        self._rows = items(rows)
        self._pieces: queue.SimpleQueue[Words] = queue.SimpleQueue()
        for _ in range(threads):
            self._pieces.put(
                np.empty((max(1, PIECE_BYTES // layout.row_bytes), layout.words), np.int32)
            )
        self._threads = ThreadPoolExecutor(threads, "millstream-gather")
        self._count = threads
        self._running: list[Future[list[Batch]]] = []

    def start(
        self, places: Ints, batch: Unfilled, finish: Callable[[], list[Batch]]
    ) -> Future[list[Batch]]:
        """Fills a batch with the rows at some places, then gives what `finish` makes of it."""
        cuts = np.linspace(0, len(places), self._count + 1).astype(int).tolist()
        made, left = Future[list[Batch]](), threading.Semaphore(self._count - 1)

        def gather(begin: int, end: int) -> None:
            try:
                self._gather(places, batch, begin, end)
                if not left.acquire(blocking=False):
                    made.set_result(finish())
            except Exception as error:
                made.set_exception(error)

        self._running = [future for future in self._running if not future.done()] + [made]
        for begin, end in itertools.pairwise(cuts):
            self._threads.submit(gather, begin, end)
        return made

    def wait(self) -> None:
        """Until all that was started is done, or failed."""
        wait(self._running)

    def close(self) -> None:
        """Ends the threads once all that was started is done; does not wait."""
        self._threads.shutdown(wait=False)

    def _gather(self, places: Ints, batch: Unfilled, begin: int, end: int) -> None:
        words = self._pieces.get()
        try:
            for low in range(begin, end, len(words)):
                piece = words[: min(end - low, len(words))]
                # All places are there, so that nothing is clipped; else NumPy copies twice.
                np.take(self._rows, places[low : low + len(piece)], out=items(piece), mode="clip")
                batch.fill(low, piece)
        finally:
            self._pieces.put(words)
