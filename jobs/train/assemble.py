"""Windows of a rank's streams to batches, within a budget of memory.

Batches are made in blocks: for each stream one copy of its next rows into a grid, whose flattened
rows are in the epoch's order; then all tensors of the block at once, and batches as slices.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from jobs.train.batch import Batch, Layout, items
from jobs.train.decode import WindowRows
from jobs.train.memory import Buffers
from jobs.train.plan import EpochPlan, Ints, Share, windows_by_need
from jobs.train.reader import Reader

# Rows of a stream in a block, about: the Python of a block is spread over as many rows.
_BLOCK_ROWS_OF_STREAM = 256
_BLOCK_BYTES = 8 << 20


def batches_a_block(share: Share, row_bytes: int) -> int:
    """Batches made together."""
    by_rows = _BLOCK_ROWS_OF_STREAM // share.piece_rows
    by_bytes = _BLOCK_BYTES // (share.piece_rows * len(share.owned) * row_bytes)
    return max(1, min(by_rows, by_bytes))


class Assembler:
    """Makes one rank's batches of an epoch.

    Never waits for memory in vain: windows are asked for in the order in which they are needed, so
    when one is needed, at most one window a stream is held, and that much the budget covers.
    """

    def __init__(
        self,
        plan: EpochPlan,
        share: Share,
        reader: Reader,
        layout: Layout,
        buffers: Buffers,
        start_row: int,
    ) -> None:
        self._share, self._reader, self._layout, self._buffers = share, reader, layout, buffers
        self._start_row = start_row
        self._starts = share.rows_before(start_row)
        self._windows = windows_by_need(plan, share.owned.tolist(), self._starts)
        self._next = next(self._windows, None)
        self._held: list[deque[WindowRows]] = [deque() for _ in share.owned]
        self._batches = batches_a_block(share, layout.row_bytes)
        shape = (self._batches * share.piece_rows, len(share.owned), layout.words)
        self._grid = np.empty(shape, np.int32)

    def blocks(self, pinned: bool = False) -> Iterator[list[Batch]]:
        """The batches to the end of the epoch, in blocks, whose memory is pinned as a whole."""
        batch_rows = self._share.batch_rows
        for low in range(self._start_row, self._share.rows, self._batches * batch_rows):
            high = min(low + self._batches * batch_rows, self._share.rows)
            block, position = self._block(low, high)
            block = block.pinned() if pinned else block
            cuts = np.searchsorted(position, np.arange(low, high + batch_rows, batch_rows))
            yield [
                block[begin:end] if end > begin else self._layout.padding()
                for begin, end in zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True)
            ]

    def _block(self, low: int, high: int) -> tuple[Batch, Ints]:
        """The rank's rows of global rows low .. high-1, and their positions, ascending."""
        begins, ends = self._share.rows_before(low), self._share.rows_before(high)
        streams = self._share.streams
        # Not aligned to S, some streams begin a line later: columns go by their first position.
        first_positions = begins * streams + self._share.owned
        columns = np.argsort(np.argsort(first_positions))
        lines = int((ends - begins).max())
        grid = self._grid[:lines]
        self._fill(items(grid), columns, begins, ends)
        position = (np.arange(lines)[:, None] * streams + np.sort(first_positions)).reshape(-1)
        words = grid.reshape(-1, self._layout.words)
        inside = position < high
        if not inside.all():
            words, position = words[inside], position[inside]
        # Blocks of other sizes come once.
        empty = self._buffers.batches.empty if len(words) == self._grid[..., 0].size else np.empty
        return self._layout.batch(words, position, empty), position

    def _fill(self, grid: npt.NDArray[np.void], columns: Ints, begins: Ints, ends: Ints) -> None:
        """Copies rows begins .. ends-1 of each stream into its column of the grid."""
        filled = begins.copy()
        while True:
            for index in np.flatnonzero(filled < ends).tolist():
                column = grid[:, columns[index]]
                begin, end = int(begins[index]), int(ends[index])
                filled[index] = self._drain(column, index, begin, int(filled[index]), end)
            self._prefetch()
            if (filled == ends).all():
                return
            self._reader.receive()

    def _drain(
        self, column: npt.NDArray[np.void], index: int, begin: int, filled: int, end: int
    ) -> int:
        """Copies what is there of one stream; returns the first row that is not."""
        held = self._held[index]
        while held and filled < end and not held[0].waiting:
            rows = held[0]
            until = min(end, rows.end)
            taken = rows.words[filled - rows.begin : until - rows.begin]
            column[filled - begin : until - begin] = items(taken)
            filled = until
            if filled == rows.end:
                held.popleft()
                self._buffers.give(rows.words)
        return filled

    def _prefetch(self) -> None:
        """Asks for the next windows as far as the budget goes."""
        while self._next is not None:
            index = (self._next.stream - self._share.rank) // self._share.size
            start = max(self._next.begin, int(self._starts[index]))
            memory = self._buffers.take(self._next.end - start)
            if memory is None:
                break
            self._held[index].append(self._reader.request(self._next, start, memory))
            self._next = next(self._windows, None)
        self._reader.send()
