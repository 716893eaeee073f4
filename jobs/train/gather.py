"""Rows of windows to batches, by several threads, while the next batches are planned."""

from __future__ import annotations

import queue
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

import numpy as np

from jobs.train.batch import Batch, Layout, Words, items
from jobs.train.filling import Unfilled
from jobs.train.memory import PIECE_BYTES
from jobs.train.plan import Ints


class Gathering:
    """Threads that copy rows to blocks of batches, by way of pieces that fit the cache.

    Args:
        rows: int32 [r, W], from where they come.
        layout: of a row.
        threads: their number.
    """

    def __init__(self, rows: Words, layout: Layout, threads: int) -> None:
        self._rows = items(rows)
        self._pieces: queue.SimpleQueue[Words] = queue.SimpleQueue()
        piece = (max(1, PIECE_BYTES // layout.row_bytes), layout.words)
        for _ in range(threads):
            self._pieces.put(np.empty(piece, np.int32))
        self._threads = ThreadPoolExecutor(threads, "millstream-gather")
        self._running: list[Future[list[Batch]]] = []

    def start(
        self, places: Ints, block: Unfilled, batches: Callable[[], list[Batch]]
    ) -> Future[list[Batch]]:
        """Fills a block with the rows at some places; its batches come then."""

        def gather() -> list[Batch]:
            self._gather(places, block)
            return batches()

        self._running = [future for future in self._running if not future.done()]
        self._running.append(self._threads.submit(gather))
        return self._running[-1]

    def wait(self) -> None:
        """Until all that was started is done, or failed."""
        wait(self._running)

    def close(self) -> None:
        """Ends the threads once all that was started is done; does not wait."""
        self._threads.shutdown(wait=False)

    def _gather(self, places: Ints, block: Unfilled) -> None:
        words = self._pieces.get()
        try:
            for low in range(0, len(places), len(words)):
                chosen = places[low : low + len(words)]
                piece = words[: len(chosen)]
                # All places are there, so that nothing is clipped; else NumPy copies twice.
                np.take(self._rows, chosen, out=items(piece), mode="clip")
                block.fill(low, piece)
        finally:
            self._pieces.put(words)
