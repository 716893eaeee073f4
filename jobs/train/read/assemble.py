"""Windows of a rank's streams to batches, within a budget of memory.

Batches are made in blocks: where the next rows of each stream are, line by line of the epoch's
order; then these rows gathered and all tensors of the block at once, and batches as slices.
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
from jobs.train.order.plan import EpochPlan, Ints, Share, windows_by_need
from jobs.train.read.decode import WindowRows
from jobs.train.read.memory import Slots
from jobs.train.read.reader import Reader
from jobs.train.read.row_copier import Gathering

# Rows of a stream in a block, about: the Python of a block is spread over as many rows.
_BLOCK_ROWS_OF_STREAM = 512
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
        # Row r of a stream, before `until`, is told of at r + shift.
        self._until, self._shift = self._starts.copy(), np.zeros_like(self._starts)
        self._batches = slots.line_rows // share.piece_rows
        self._gathering = Gathering(slots, layout, threads)

    def blocks(self, pinned: bool = False) -> Iterator[Future[list[Batch]]]:
        """The batches to the end of the epoch, in blocks, whose memory is pinned as a whole."""
        batch_rows = self._share.batch_rows
        for low in range(self._start_row, self._share.rows, self._batches * batch_rows):
            high = min(low + self._batches * batch_rows, self._share.rows)
            yield self._block(low, high, pinned)
        self._gathering.wait()

    def close(self) -> None:
        """Ends its threads; does not wait."""
        self._gathering.close()

    def _block(self, low: int, high: int, pinned: bool) -> Future[list[Batch]]:
        """The rank's batches of global rows low .. high-1."""
        begins, ends = self._share.rows_before(low), self._share.rows_before(high)
        streams = self._share.streams
        # Not aligned to S, some streams begin a line later: columns go by their first position.
        first_positions = begins * streams + self._share.owned
        columns = np.argsort(first_positions)
        line = np.arange((ends - begins).max())[:, None]
        where = (line + self._find(begins, ends)[columns]).reshape(-1)
        position = (line * streams + first_positions[columns]).reshape(-1)
        inside = position < high
        if not inside.all():
            where, position = where[inside], position[inside]
        # Blocks of other sizes come once.
        full = len(where) == self._slots.line_rows * len(self._held)
        batch = self._layout.unfilled(position, self._slots.batches.empty if full else np.empty)
        batch_rows = self._share.batch_rows
        cuts = np.searchsorted(position, np.arange(low, high + batch_rows, batch_rows))

        def batches() -> list[Batch]:
            block = batch.filled().pinned() if pinned else batch.filled()
            return [
                block[begin:end] if end > begin else self._layout.padding()
                for begin, end in itertools.pairwise(cuts.tolist())
            ]

        return self._gathering.start(where, batch, batches)

    def _find(self, begins: Ints, ends: Ints) -> Ints:
        """Waits for rows begins .. ends-1 of each stream; returns where these begin."""
        # At a window's very end too, so that no more than one of a stream is held.
        short = np.flatnonzero((self._until <= ends) & (begins < ends)).tolist()
        stretches = [_Stretch(i, int(begins[i]), int(ends[i]), int(begins[i])) for i in short]
        if short:
            # Rows are still being gathered from slots to be given back, and from tails.
            self._gathering.wait()
        while True:
            for stretch in stretches:
                self._find_in(stretch)
            if short:
                self._prefetch()
                if self._next is None and not self._reader.is_waiting():
                    # Threads with nothing to do look for work a thousand times a second.
                    self._reader.close()
            if all(stretch.found == stretch.end for stretch in stretches):
                break
            self._reader.receive()
        first = begins + self._shift
        for stretch in stretches:
            if stretch.is_in_tail:
                first[stretch.stream] = self._slots.tail(stretch.stream)
        return first

    def _find_in(self, stretch: _Stretch) -> None:
        """Finds more rows of one stream. What lies in several windows, or ends one, is copied."""
        held, rows, stream = self._held[stretch.stream], self._slots.rows, stretch.stream
        while held and held[0].is_ready and stretch.found < stretch.end:
            window, found = held[0], stretch.found
            stretch.found = min(window.end, stretch.end)
            shift = window.first - window.begin
            stretch.is_in_tail |= stretch.found == window.end
            if stretch.is_in_tail:
                tail = self._slots.tail(stream) - stretch.begin
                places = self._slots.places[shift + found : shift + stretch.found]
                rows[tail + found : tail + stretch.found] = rows[places]
            if stretch.found == window.end:
                self._slots.give(held.popleft().first)
            else:
                self._until[stream], self._shift[stream] = window.end, shift

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


@dataclass
class _Stretch:
    """Consecutive rows begin .. end-1 of a stream, of which those before `found` were found."""

    stream: int
    begin: int
    end: int
    found: int
    is_in_tail: bool = False
