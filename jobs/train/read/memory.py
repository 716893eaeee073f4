"""The memory of a rank's stream: what the order needs at least, and how the rest is used."""

from __future__ import annotations

import math
import weakref
from bisect import bisect_left, insort
from collections import defaultdict, deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from jobs.base.errors import ConfigError
from jobs.batch.builder import WORD
from jobs.batch.tensors import Words
from jobs.train.order.plan import Ints

# Rows that are put side by side at once: enough to make calls cheap, few enough for the cache.
CHUNK_BYTES = 3 << 20
# Rows that are gathered at once, from where they come to a batch.
PIECE_BYTES = 3 << 19
# Arrow decodes large pieces faster; a small budget has to do with small ones.
_DECODE_BYTES = (1 << 20, 12 << 20)
# Blocks of batches that exist at once: being made, waiting, being trained on.
BLOCKS = 4
# Windows of a stream that are held at most: one is consumed, the others are read ahead.
_WINDOWS_OF_STREAM = 4
# Of a window's row besides its words: its place in the order.
_PLACE_BYTES = 8
# While that is worked out there are three such numbers.
_ORDER_BYTES = 3 * _PLACE_BYTES


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
    def fixed(self) -> int:
        """The tails, batches (ids take twice their words), what is being decoded and gathered."""
        decoding = 2 * self.decode_rows * self.row_bytes + CHUNK_BYTES + PIECE_BYTES
        ordering = self.window_rows * _ORDER_BYTES
        blocks = self.block_rows * self.row_bytes * (1 + 2 * BLOCKS)
        return blocks + self.threads * (decoding + ordering)

    @property
    def window_bytes(self) -> int:
        return self.window_rows * (self.row_bytes + _PLACE_BYTES)

    @property
    def decode_rows(self) -> int:
        """Rows that Arrow decodes at once, in each thread."""
        least, most = _DECODE_BYTES
        wanted = min(most, max(least, self.total // (16 * self.threads)))
        return max(1, wanted // self.row_bytes)

    @property
    def least(self) -> int:
        return self.fixed + self.streams * self.window_bytes

    def slots(self, row_words: int) -> Slots:
        """What is left, for windows."""
        line_rows = self.block_rows // self.streams
        limit = self.total - self.fixed
        return Slots(limit, self.window_rows, self.streams, line_rows, row_words)


class Recycled:
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


class Slots:
    """Memory for windows in one piece, so that rows of several are gathered at once.

    Kept for the next windows and epochs: fresh pages cost as much as decoding does. Pages that no
    window has filled take no memory.

    Args:
        limit_bytes: of all windows, with the order of their rows.
        slot_rows: of the largest window.
        streams: of the rank; no more than a few windows of each are kept.
        line_rows: see below.
        row_words: W, words of a row.

    Attributes:
        rows: int32 [r, W], the slots one after the other, then the tails.
        places: int64 [r], where in `rows` the rows of a slot are, in their order; of a tail itself.
        line_rows: rows of a stream in a block of batches.
        batches: memory of batches.
    """

    def __init__(
        self, limit_bytes: int, slot_rows: int, streams: int, line_rows: int, row_words: int
    ) -> None:
        fitting = limit_bytes // (slot_rows * (WORD * row_words + _PLACE_BYTES))
        slots = min(fitting, _WINDOWS_OF_STREAM * streams)
        self.line_rows, self._first_tail = line_rows, slots * slot_rows
        self.rows: Words = np.empty((self._first_tail + streams * line_rows, row_words), np.int32)
        self.places: Ints = np.empty(len(self.rows), np.int64)
        self.places[self._first_tail :] = np.arange(self._first_tail, len(self.rows))
        self._filled = {slot * slot_rows: 0 for slot in range(slots)}
        self._free = [(0, first) for first in self._filled]
        self.batches = Recycled()

    def take(self, rows: int) -> int | None:
        """The first row of a free slot for a window of some rows; None where all are in use."""
        if not self._free:
            return None
        # One that as many rows have filled before, so that few pages are fresh.
        fitting = bisect_left(self._free, (rows,))
        filled, first = self._free.pop(min(fitting, len(self._free) - 1))
        self._filled[first] = max(filled, rows)
        return first

    def give(self, first: int) -> None:
        """Takes back what `take` gave."""
        insort(self._free, (self._filled[first], first))

    def tail(self, stream: int) -> int:
        """Where a stream's rows of a block wait once their slot is given back: the first row.

        Args:
            stream: its number among the rank's.
        """
        return self._first_tail + stream * self.line_rows
