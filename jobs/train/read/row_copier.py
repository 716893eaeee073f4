"""Threads that copy rows of windows to batches, while the next batches are planned."""

from __future__ import annotations

import queue
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

import numpy as np

from jobs.batch.batch import Batch
from jobs.batch.builder import BatchBuilder
from jobs.batch.layout import Layout, items
from jobs.batch.tensors import Words
from jobs.train.order.plan import Ints
from jobs.train.read.memory import PIECE_BYTES, WindowBuffer
from jobs.train.read.priority import yield_to_training


class RowCopier:
    """Copies rows to blocks of batches, piece by piece, so that a piece stays in the cache.

    Args:
        buffer: where the rows are.
        layout: of a row.
        threads: that copy.
    """

    def __init__(self, buffer: WindowBuffer, layout: Layout, threads: int) -> None:
        self._rows, self._index = items(buffer.rows), buffer.index
        # Memory of the pieces, int32 [n, W], one for each thread.
        self._pieces: queue.SimpleQueue[Words] = queue.SimpleQueue()
        shape = (max(1, PIECE_BYTES // layout.row_bytes), layout.words)
        for _ in range(threads):
            self._pieces.put(np.empty(shape, np.int32))
        self._threads = ThreadPoolExecutor(threads, "millstream-copy", yield_to_training)
        self._running: list[Future[list[Batch]]] = []

    def start(
        self, at: Ints, block: BatchBuilder, batches: Callable[[], list[Batch]]
    ) -> Future[list[Batch]]:
        """Has rows copied to a block.

        Args:
            at: int64 [b]; row i of the block is row `buffer.index[at[i]]` of the buffer.
            block: of b rows.
            batches: cuts the block, once all its rows are there.

        Returns:
            What `batches` gives.
        """

        def copy() -> list[Batch]:
            self._copy(at, block)
            return batches()

        self._running = [future for future in self._running if not future.done()]
        self._running.append(self._threads.submit(copy))
        return self._running[-1]

    def wait(self) -> None:
        """Waits until all that was started is done, or failed."""
        wait(self._running)

    def close(self) -> None:
        """Ends the threads once all that was started is done; does not wait."""
        self._threads.shutdown(wait=False)

    def _copy(self, at: Ints, block: BatchBuilder) -> None:
        words = self._pieces.get()
        try:
            for low in range(0, len(at), len(words)):
                rows = self._index[at[low : low + len(words)]]
                piece = words[: len(rows)]
                # All rows are in range, so that nothing is clipped; else NumPy copies twice.
                np.take(self._rows, rows, out=items(piece), mode="clip")
                block.fill(low, piece)
        finally:
            self._pieces.put(words)
