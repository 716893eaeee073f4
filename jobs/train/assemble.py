"""Windows of a rank's streams to batches, within a budget of memory.

Batches are made in blocks: for each stream one copy of its next rows into a grid, whose flattened
rows are in the epoch's order; then all tensors of the block at once, and batches as slices.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from jobs.errors import ConfigError
from jobs.train.batch import Batch, Layout
from jobs.train.plan import EpochPlan, Ints, Share, windows_by_need
from jobs.train.reader import CHUNK_BYTES, Reader, WindowRows

# Rows of a stream in a block, about: the Python of a block is spread over as many rows.
_BLOCK_ROWS_OF_STREAM = 256
_BLOCK_BYTES = 8 << 20
# Blocks that exist at once: being made, waiting, being trained on.
BLOCKS = 4
_PLACE_BYTES = 8


@dataclass(frozen=True)
class Memory:
    """How a rank's budget is used, in bytes. What is left over windows and blocks is prefetch.

    Raises:
        ConfigError: the windows that must be open at once do not fit.
    """

    total: int
    row_bytes: int
    window_rows: int
    streams: int
    block_rows: int
    threads: int

    def __post_init__(self) -> None:
        if self.least > self.total:
            rows = self.streams * self.window_rows
            raise ConfigError(
                f"{self.streams} open windows of up to {self.window_rows} rows are {rows} rows, "
                f"with batches {self.least} bytes",
                f"at most {self.total} bytes (stream.memory_mb)",
                f"raise stream.memory_mb to {-(-self.least >> 20)}, or lower stream.window_rows, "
                "which starts another order; more ranks share the windows too",
            )

    @property
    def window_row_bytes(self) -> int:
        return self.row_bytes + _PLACE_BYTES

    @property
    def fixed(self) -> int:
        """Grids, batches (ids take twice their words), chunks being decoded."""
        # Arrow's columns and the words of a chunk.
        chunks = self.threads * 2 * max(CHUNK_BYTES, self.row_bytes)
        return self.block_rows * self.row_bytes * (1 + 2 * BLOCKS) + chunks

    @property
    def least(self) -> int:
        return self.fixed + self.streams * self.window_rows * self.window_row_bytes

    @property
    def for_windows(self) -> int:
        return self.total - self.fixed


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
        memory: Memory,
        start_row: int,
    ) -> None:
        self._share, self._reader, self._layout, self._memory = share, reader, layout, memory
        self._start_row = start_row
        self._starts = share.rows_before(start_row)
        self._windows = windows_by_need(plan, share.owned.tolist(), self._starts)
        self._next = next(self._windows, None)
        self._held: list[deque[WindowRows]] = [deque() for _ in share.owned]
        self._held_bytes = 0
        self._batches = batches_a_block(share, layout.row_bytes)
        shape = (self._batches * share.piece_rows, len(share.owned), layout.words)
        self._grid = np.empty(shape, np.int32)

    def blocks(self) -> Iterator[list[Batch]]:
        """The batches to the end of the epoch, in blocks."""
        batch_rows = self._share.batch_rows
        for low in range(self._start_row, self._share.rows, self._batches * batch_rows):
            high = min(low + self._batches * batch_rows, self._share.rows)
            block, position = self._block(low, high)
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
        self._fill(grid, columns, begins, ends)
        position = (np.arange(lines)[:, None] * streams + np.sort(first_positions)).reshape(-1)
        words = grid.reshape(-1, self._layout.words)
        inside = position < high
        if not inside.all():
            words, position = words[inside], position[inside]
        return self._layout.batch(words, position), position

    def _fill(self, grid: np.ndarray, columns: Ints, begins: Ints, ends: Ints) -> None:
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

    def _drain(self, column: np.ndarray, index: int, begin: int, filled: int, end: int) -> int:
        """Copies what is there of one stream; returns the first row that is not."""
        held = self._held[index]
        while held and filled < end and not held[0].waiting:
            rows = held[0]
            until = min(end, rows.end)
            column[filled - begin : until - begin] = rows.words[
                filled - rows.begin : until - rows.begin
            ]
            filled = until
            if filled == rows.end:
                held.popleft()
                self._held_bytes -= self._bytes(rows.end - rows.begin)
        return filled

    def _prefetch(self) -> None:
        """Asks for the next windows as far as the budget goes."""
        while self._next is not None:
            index = (self._next.stream - self._share.rank) // self._share.size
            start = int(self._starts[index])
            needed = self._bytes(self._next.end - max(self._next.begin, start))
            if self._held_bytes + needed > self._memory.for_windows:
                break
            self._held[index].append(self._reader.request(self._next, start))
            self._held_bytes += needed
            self._next = next(self._windows, None)
        self._reader.send()

    def _bytes(self, rows: int) -> int:
        return rows * self._memory.window_row_bytes
