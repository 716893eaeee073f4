"""Rows of windows to batches, by several threads, while the next batches are planned."""

from __future__ import annotations

import queue
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

import numpy as np

from jobs.batch.batch import Batch
from jobs.batch.builder import Unfilled
from jobs.batch.layout import Layout, items
from jobs.batch.tensors import Words
from jobs.train.order.plan import Ints
from jobs.train.read.memory import PIECE_BYTES, Slots


class Gathering:
    """Threads that copy rows to blocks of batches, by way of pieces that fit the cache.

    Args:
        slots: from where they come.
        layout: of a row.
        threads: their number.
    """

    def __init__(self, slots: Slots, layout: Layout, threads: int) -> None:
        self._rows, self._places = items(slots.rows), slots.places
        self._pieces: queue.SimpleQueue[Words] = queue.SimpleQueue()
        piece = (max(1, PIECE_BYTES // layout.row_bytes), layout.words)
        for _ in range(threads):
            self._pieces.put(np.empty(piece, np.int32))
        self._threads = ThreadPoolExecutor(threads, "millstream-gather")
        self._running: list[Future[list[Batch]]] = []

    def start(
        self, where: Ints, block: Unfilled, batches: Callable[[], list[Batch]]
    ) -> Future[list[Batch]]:
        """Fills a block with rows, told of at `where` in `Slots.places`; its batches come then."""

        def gather() -> list[Batch]:
            self._gather(where, block)
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

    def _gather(self, where: Ints, block: Unfilled) -> None:
        words = self._pieces.get()
        try:
            for low in range(0, len(where), len(words)):
                chosen = self._places[where[low : low + len(words)]]
                piece = words[: len(chosen)]
                # All places are there, so that nothing is clipped; else NumPy copies twice.
                np.take(self._rows, chosen, out=items(piece), mode="clip")
                block.fill(low, piece)
        finally:
            self._pieces.put(words)
