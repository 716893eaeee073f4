"""Windows of a rank's streams to batches, within a budget of memory.

Batches are made in blocks of several. For a block it is worked out where each of its rows lies,
line by line of the epoch's order, a line having one row of each of the rank's streams. Then the
rows are copied, the tensors of the whole block are made at once, and batches are slices of them.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from jobs.batch.batch import Batch
from jobs.batch.layout import Layout
from jobs.train.order.plan import EpochPlan, Ints, windows_by_need
from jobs.train.order.share import RankShare
from jobs.train.read.decode import WindowRows
from jobs.train.read.memory import WindowBuffer
from jobs.train.read.reader import Reader
from jobs.train.read.row_copier import RowCopier

# Rows of a stream in a block, about: the Python of a block is spread over as many rows.
_BLOCK_ROWS_OF_STREAM = 512
_BLOCK_BYTES = 8 << 20


def batches_a_block(share: RankShare, row_bytes: int) -> int:
    """How many batches are made together."""
    by_rows = _BLOCK_ROWS_OF_STREAM // share.piece_rows
    by_bytes = _BLOCK_BYTES // (share.piece_rows * len(share.owned) * row_bytes)
    return max(1, min(by_rows, by_bytes))


class Assembler:
    """Makes one rank's batches of an epoch.

    Never waits for memory in vain: windows are asked for in the order in which they are needed, so
    when one is needed, at most one window a stream is held, and that much the budget covers.

    S_r is the number of the rank's streams.
    """

    def __init__(
        self,
        plan: EpochPlan,
        share: RankShare,
        reader: Reader,
        layout: Layout,
        buffer: WindowBuffer,
        start_row: int,
        threads: int,
    ) -> None:
        self._share, self._reader, self._layout, self._buffer = share, reader, layout, buffer
        self._start_row = start_row
        self._starts = share.rows_before(start_row)
        self._windows = windows_by_need(plan, share.owned.tolist(), self._starts)
        self._next = next(self._windows, None)
        # Of each of the rank's streams the windows that were asked for and are not used up.
        self._held: list[deque[WindowRows]] = [deque() for _ in share.owned]
        # int64 [S_r] each. Row r of a stream, where r < until, lies at index[r + shift] of the
        # buffer: in the window that the stream is at.
        self._until, self._shift = self._starts.copy(), np.zeros_like(self._starts)
        self._batches = buffer.stream_rows // share.piece_rows
        self._copier = RowCopier(buffer, layout, threads)

    def blocks(self, pinned: bool = False) -> Iterator[Future[list[Batch]]]:
        """The batches to the end of the epoch, in blocks, whose memory is pinned as a whole."""
        batch_rows = self._share.batch_rows
        for low in range(self._start_row, self._share.rows, self._batches * batch_rows):
            high = min(low + self._batches * batch_rows, self._share.rows)
            yield self._block(low, high, pinned)
        self._copier.wait()

    def close(self) -> None:
        """Ends its threads; does not wait."""
        self._copier.close()

    def _block(self, low: int, high: int, pinned: bool) -> Future[list[Batch]]:
        """The rank's batches of the epoch's rows low .. high-1."""
        # int64 [S_r] each: the rows begins .. ends-1 of each stream are in the block.
        begins, ends = self._share.rows_before(low), self._share.rows_before(high)
        streams = self._share.streams
        # int64 [S_r]: the position in the epoch of each stream's first row.
        first_positions = begins * streams + self._share.owned
        # Where `low` is no multiple of S, some streams begin a line later: the columns of the
        # lines are the streams in the order of their first rows.
        columns = np.argsort(first_positions)
        # int64 [lines, S_r], then [lines * S_r]: where each row is found, and its position.
        line = np.arange((ends - begins).max())[:, None]
        at = (line + self._find(begins, ends)[columns]).reshape(-1)
        position = (line * streams + first_positions[columns]).reshape(-1)
        inside = position < high
        if not inside.all():
            at, position = at[inside], position[inside]
        # Blocks of other sizes come once.
        full = len(at) == self._buffer.stream_rows * len(self._held)
        builder = self._layout.builder(position, self._buffer.batches.empty if full else np.empty)
        batch_rows = self._share.batch_rows
        # Where in the block each batch begins.
        cuts = np.searchsorted(position, np.arange(low, high + batch_rows, batch_rows))

        def batches() -> list[Batch]:
            block = builder.build().pinned() if pinned else builder.build()
            return [
                block[begin:end] if end > begin else self._layout.padding()
                for begin, end in itertools.pairwise(cuts.tolist())
            ]

        return self._copier.start(at, builder, batches)

    def _find(self, begins: Ints, ends: Ints) -> Ints:
        """Waits until rows begins .. ends-1 of each stream are there.

        Args:
            begins, ends: int64 [S_r].

        Returns:
            int64 [S_r]: the place in the buffer's index of each stream's first row; the others
            follow it.
        """
        # At a window's very end too, so that no more than one of a stream is held.
        short = np.flatnonzero((self._until <= ends) & (begins < ends)).tolist()
        wanted = [_StreamRows(i, int(begins[i]), int(ends[i]), int(begins[i])) for i in short]
        if short:
            # Earlier blocks may still copy rows of windows that are given back, and of copies.
            self._copier.wait()
        while True:
            for rows in wanted:
                self._find_in_windows(rows)
            if short:
                self._prefetch()
                if self._next is None and not self._reader.is_waiting():
                    # Threads with nothing to do look for work a thousand times a second.
                    self._reader.close()
            if all(rows.found == rows.end for rows in wanted):
                break
            self._reader.receive()
        first = begins + self._shift
        for rows in wanted:
            if rows.is_copied:
                first[rows.stream] = self._buffer.first_copy(rows.stream)
        return first

    def _find_in_windows(self, wanted: _StreamRows) -> None:
        """Finds more rows of one stream in the windows that are there.

        Rows of several windows, or up to a window's end, are copied to the stream's own place, so
        that they lie side by side and the window can be given back.
        """
        held, rows, stream = self._held[wanted.stream], self._buffer.rows, wanted.stream
        while held and held[0].is_ready and wanted.found < wanted.end:
            window, found = held[0], wanted.found
            wanted.found = min(window.end, wanted.end)
            shift = window.first - window.begin
            wanted.is_copied |= wanted.found == window.end
            if wanted.is_copied:
                copy = self._buffer.first_copy(stream) - wanted.begin
                index = self._buffer.index[shift + found : shift + wanted.found]
                rows[copy + found : copy + wanted.found] = rows[index]
            if wanted.found == window.end:
                self._buffer.give(held.popleft().first)
            else:
                self._until[stream], self._shift[stream] = window.end, shift

    def _prefetch(self) -> None:
        """Asks for the next windows as far as the budget goes."""
        while self._next is not None:
            first = self._buffer.take(self._next.rows)
            if first is None:
                break
            stream = self._next.stream - int(self._share.owned[0])
            start = int(self._starts[stream])
            requested = self._reader.request(self._next, start, first, self._buffer)
            self._held[stream].append(requested)
            self._next = next(self._windows, None)
        self._reader.send()


@dataclass
class _StreamRows:
    """Rows begin .. end-1 of a stream, for one block; those before `found` were found.

    Attributes:
        stream: its number among the rank's.
        is_copied: whether they are in the stream's place for copies.
    """

    stream: int
    begin: int
    end: int
    found: int
    is_copied: bool = False
