"""Windows of a rank's streams to batches, within a budget of memory.

Batches are made in blocks: where the next rows of each stream are, line by line of the epoch's
order; then these rows gathered and all tensors of the block at once, and batches as slices.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from jobs.train.batch import Batch, Layout, Words, items
from jobs.train.decode import WindowRows
from jobs.train.filling import Unfilled
from jobs.train.memory import PIECE_BYTES, Slots
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
        slots: Slots,
        start_row: int,
        threads: int,
    ) -> None:
        self._share, self._reader, self._layout, self._slots = share, reader, layout, slots
        self._start_row = start_row
        self._starts = share.rows_before(start_row)
        self._windows = windows_by_need(plan, share.owned.tolist(), self._starts)
        self._next = next(self._windows, None)
        self._held: list[deque[WindowRows]] = [deque() for _ in share.owned]
        self._batches = slots.line_rows // share.piece_rows
        # Where the rows of a block are; zeros, since a stream may have a row less in the last one.
        self._places: Ints = np.zeros((len(share.owned), slots.line_rows), np.int64)
        piece = (max(1, PIECE_BYTES // layout.row_bytes), layout.words)
        self._pieces = [np.empty(piece, np.int32) for _ in range(threads)]
        self._threads = ThreadPoolExecutor(threads, "millstream-gather")

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

    def close(self) -> None:
        """Ends its threads; does not wait."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _block(self, low: int, high: int) -> tuple[Batch, Ints]:
        """The rank's rows of global rows low .. high-1, and their positions, ascending."""
        begins, ends = self._share.rows_before(low), self._share.rows_before(high)
        streams = self._share.streams
        # Not aligned to S, some streams begin a line later: columns go by their first position.
        first_positions = begins * streams + self._share.owned
        columns = np.argsort(np.argsort(first_positions))
        lines = int((ends - begins).max())
        self._find(columns, begins, ends)
        position = (np.arange(lines)[:, None] * streams + np.sort(first_positions)).reshape(-1)
        places = self._places[:, :lines].T.reshape(-1)
        inside = position < high
        if not inside.all():
            places, position = places[inside], position[inside]
        # Blocks of other sizes come once.
        empty = self._slots.batches.empty if len(places) == self._places.size else np.empty
        batch = self._layout.unfilled(position, empty)
        self._gather(places, batch)
        return batch.filled(), position

    def _gather(self, places: Ints, batch: Unfilled) -> None:
        """Copies rows to a batch, by way of pieces that fit the cache, in several threads."""
        rows = items(self._slots.rows)

        def gather(words: Words, begin: int, end: int) -> None:
            for low in range(begin, end, len(words)):
                piece = words[: min(end - low, len(words))]
                # All places are there, so that nothing is clipped; else NumPy copies twice.
                np.take(rows, places[low : low + len(piece)], out=items(piece), mode="clip")
                batch.fill(low, piece)

        cuts = np.linspace(0, len(places), len(self._pieces) + 1).astype(int).tolist()
        list(self._threads.map(gather, self._pieces, cuts[:-1], cuts[1:]))

    def _find(self, columns: Ints, begins: Ints, ends: Ints) -> None:
        """Waits for rows begins .. ends-1 of each stream, and notes where they are."""
        found = begins.copy()
        while True:
            for index in np.flatnonzero(found < ends).tolist():
                places = self._places[columns[index]]
                begin, end = int(begins[index]), int(ends[index])
                found[index] = self._find_in(places, index, begin, int(found[index]), end)
            self._prefetch()
            if (found == ends).all():
                return
            self._reader.receive()

    def _find_in(self, places: Ints, index: int, begin: int, found: int, end: int) -> int:
        """Notes where rows of one stream are; returns the first row that is not there yet."""
        held = self._held[index]
        while held and found < end and not held[0].waiting:
            window = held[0]
            if end < window.end:
                places[found - begin : end - begin] = window.places(found, end)
                return end
            there, until = window.places(found, window.end), window.end
            tail = self._slots.tail(index) + found - begin
            self._slots.rows[tail : tail + len(there)] = self._slots.rows[there]
            places[found - begin : until - begin] = np.arange(tail, tail + len(there))
            self._slots.give(held.popleft().slot)
            found = until
        return found

    def _prefetch(self) -> None:
        """Asks for the next windows as far as the budget goes."""
        while self._next is not None:
            slot = self._slots.take(self._next.rows)
            if slot is None:
                break
            index = (self._next.stream - self._share.rank) // self._share.size
            start = int(self._starts[index])
            request = self._reader.request(self._next, start, slot, self._slots)
            self._held[index].append(request)
            self._next = next(self._windows, None)
        self._reader.send()
