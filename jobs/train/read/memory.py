"""The memory of a rank's stream: what the order needs at least, and how the rest is used.

Rows lie as words of 4 bytes, W to a row: int32 [rows, W]. See `jobs/batch/layout.py`.
"""

from __future__ import annotations

import math
import weakref
from bisect import bisect_left, insort
from collections import defaultdict, deque
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from jobs.base.errors import ConfigError
from jobs.batch.builder import WORD
from jobs.batch.tensors import Words
from jobs.train.order.plan import Ints
from jobs.train.read.kept import KeptGroups

# Columns are written as rows in pieces of so many bytes: calls stay cheap, and the cache suffices.
CHUNK_BYTES = 3 << 20
# Rows are copied to a batch in pieces of so many bytes.
PIECE_BYTES = 3 << 19
# Arrow decodes large pieces faster; a small budget has to do with small ones.
_DECODE_BYTES = (1 << 20, 12 << 20)
# Blocks of batches that exist at once: one is being made, one waits, one is trained on, and of the
# one before it the last batch is still held.
BLOCKS = 4
# Windows of a stream that are held at most: one is consumed, the others are read ahead.
_WINDOWS_OF_STREAM = 4
# Of a window's row besides its words: `WindowBuffer.index`.
_INDEX_BYTES = 8
# While that is worked out there are three such numbers.
_ORDER_BYTES = 3 * _INDEX_BYTES


@dataclass(frozen=True)
class MemoryBudget:
    """How a rank's memory is used. What is left beside `least` holds windows read ahead.

    Attributes:
        total: bytes that the rank's stream may take.
        row_bytes: of one row, 4 W.
        window_rows: of the largest window.
        streams: of the rank.
        block_rows: of the batches that are made together.
        threads: that read row groups.
        held_rows: of batches that training holds beside the one that it got last.
    """

    total: int
    row_bytes: int
    window_rows: int
    streams: int
    block_rows: int
    threads: int
    held_rows: int = 0

    @property
    def fits(self) -> bool:
        """Whether there is room for the windows that must be open at once."""
        return self.least <= self.total

    def refuse_excess(self) -> None:
        """Raises ConfigError, with the sum, when the windows that must be open do not fit."""
        if not self.fits:
            rows = self.streams * self.window_rows
            raise ConfigError(
                f"{self.streams} open windows of up to {self.window_rows} rows are {rows} rows, "
                f"with batches {self.least} bytes",
                f"at most {self.total} bytes (stream.memory_mb)",
                f"raise stream.memory_mb to {self._enough_mb}, or lower stream.window_rows, "
                "which starts another order; more ranks share the windows too",
            )

    @property
    def _enough_mb(self) -> int:
        found = self
        while not found.fits:
            # With more memory, larger pieces are decoded.
            found = replace(found, total=-(-found.least >> 20) << 20)
        return found.total >> 20

    @property
    def fixed(self) -> int:
        """Bytes of all but the windows: batches, whose ids take twice their words, the copies of
        `WindowBuffer`, and what threads are decoding and copying."""
        decoding = 2 * self.decode_rows * self.row_bytes + CHUNK_BYTES + PIECE_BYTES
        ordering = self.window_rows * _ORDER_BYTES
        # A batch keeps its whole block.
        held = -(-self.held_rows // self.block_rows)
        blocks = self.block_rows * self.row_bytes * (1 + 2 * (BLOCKS + held))
        return blocks + self.threads * (decoding + ordering)

    @property
    def window_bytes(self) -> int:
        """Bytes of the largest window."""
        return self.window_rows * (self.row_bytes + _INDEX_BYTES)

    @property
    def decode_rows(self) -> int:
        """Rows that Arrow decodes at once, in each thread."""
        least, most = _DECODE_BYTES
        wanted = min(most, max(least, self.total // (16 * self.threads)))
        return max(1, wanted // self.row_bytes)

    @property
    def least(self) -> int:
        """Bytes with one window of each stream."""
        return self.fixed + self.streams * self.window_bytes

    def shrunk(self, one_batch_rows: int) -> MemoryBudget:
        """The same windows with less beside them, and with more memory if that does not suffice.

        The order of rows stays; reading takes longer.

        Args:
            one_batch_rows: of a batch that is made alone.
        """
        small = replace(self, block_rows=one_batch_rows)
        if not small.fits:
            small = replace(small, threads=1)
        while not small.fits:
            # With more memory, larger pieces are decoded.
            small = replace(small, total=small.least)
        return small

    def window_buffer(self, row_words: int, memory: RowMemory) -> WindowBuffer:
        """A place for as many windows as fit. `row_words` is W."""
        limit = self.total - self.fixed
        stream_rows = self.block_rows // self.streams
        return WindowBuffer(limit, self.window_rows, self.streams, stream_rows, row_words, memory)


class ReusedMemory:
    """Memory of batches, used again when the batches made in it are gone.

    Fresh pages cost as much as decoding does.
    """

    def __init__(self) -> None:
        self._free: dict[int, deque[npt.NDArray[np.uint8]]] = defaultdict(deque)

    def empty(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """An array of anything. Only a tensor made of the array itself keeps its memory."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        free = self._free[size]
        try:
            memory = free.pop()
        except IndexError:
            memory = np.empty(size, np.uint8)
        array = memory.view(dtype).reshape(shape)
        weakref.finalize(array, free.append, memory).atexit = False
        return array


class RowMemory:
    """Where a rank's streams hold their rows, one stream after the other.

    Training and validation take turns, so that together they need what one of them does.

    Args:
        kept: row groups that stay decoded beside that; None where all are decoded each time.

    Attributes:
        batches: memory of batches.
    """

    def __init__(self, kept: KeptGroups | None = None) -> None:
        self.kept = kept
        self._free: npt.NDArray[np.uint8] | None = None
        self.batches = ReusedMemory()

    def take(self, size: int) -> npt.NDArray[np.uint8]:
        """So many bytes of anything, at least."""
        taken, self._free = self._free, None
        if taken is None or len(taken) < size:
            # Before more is asked for.
            del taken
            taken = np.empty(size, np.uint8)
        return taken

    def give(self, taken: npt.NDArray[np.uint8]) -> None:
        """Takes back what `take` gave, for the next stream or epoch."""
        self._free = taken


class WindowBuffer:
    """Rows of windows in one array, so that a batch takes rows of several by one index.

    The array has places for so many windows, then one place a stream for copies: rows that a block
    of batches takes from several windows, or from one that it uses up. Its memory is kept for the
    next windows and epochs, as fresh pages cost as much as decoding does; pages that no window has
    filled take none.

    Args:
        limit_bytes: of all windows with their `index`.
        window_rows: of the largest window.
        streams: of the rank; no more than a few windows of each are kept.
        stream_rows: most rows of a stream in a block of batches.
        row_words: W, words of a row.
        memory: gives the bytes; `give_back` returns them.

    Attributes:
        rows: int32 [r, W], rows as they were read.
        index: int64 [r]; index[first + k] is where in `rows` the row lies that comes k-th in the
            order of the window at `first`. Of a copy it is the copy's own place.
        stream_rows: as given.
        batches: memory of batches.
    """

    def __init__(
        self,
        limit_bytes: int,
        window_rows: int,
        streams: int,
        stream_rows: int,
        row_words: int,
        memory: RowMemory,
    ) -> None:
        fitting = limit_bytes // (window_rows * (WORD * row_words + _INDEX_BYTES))
        windows = min(fitting, _WINDOWS_OF_STREAM * streams)
        self.stream_rows, self._first_copy = stream_rows, windows * window_rows
        rows = self._first_copy + streams * stream_rows
        self._memory = memory
        self._taken = memory.take(rows * (_INDEX_BYTES + WORD * row_words))
        cut = rows * _INDEX_BYTES
        self.index: Ints = self._taken[:cut].view(np.int64)
        words = self._taken[cut : cut + rows * WORD * row_words].view(np.int32)
        self.rows: Words = words.reshape(rows, row_words)
        self.index[self._first_copy :] = np.arange(self._first_copy, len(self.rows))
        # First row of each place -> rows that a window has filled there.
        self._filled = {window * window_rows: 0 for window in range(windows)}
        self._free = [(0, first) for first in self._filled]
        self.batches = memory.batches

    def give_back(self) -> None:
        """Called once, when nobody reads or writes it any more."""
        self._memory.give(self._taken)

    def take(self, rows: int) -> int | None:
        """The first row of a free place for a window of some rows; None where all are in use."""
        if not self._free:
            return None
        # One that as many rows have filled before, so that few pages are fresh.
        fitting = bisect_left(self._free, (rows,))
        filled, first = self._free.pop(min(fitting, len(self._free) - 1))
        self._filled[first] = max(filled, rows)
        return first

    def give(self, first: int) -> None:
        """Takes back the place that `take` gave."""
        insort(self._free, (self._filled[first], first))

    def first_copy(self, stream: int) -> int:
        """The first row of a stream's place for copies.

        Args:
            stream: its number among the rank's.
        """
        return self._first_copy + stream * self.stream_rows
