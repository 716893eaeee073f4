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

from jobs.errors import ConfigError
from jobs.train.batch import Words

# Rows that are put side by side at once: enough to make calls cheap, few enough for the cache.
CHUNK_BYTES = 3 << 19
# Arrow decodes large pieces faster; a small budget has to do with small ones.
_DECODE_BYTES = (1 << 20, 12 << 20)
# Blocks of batches that exist at once: being made, waiting, being trained on.
BLOCKS = 4
# Of a window's row besides its words: its place in the order.
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
        """The grid, batches (ids take twice their words), what is being decoded."""
        decoding = self.threads * (3 * self.decode_rows * self.row_bytes + CHUNK_BYTES)
        return self.block_rows * self.row_bytes * (1 + 2 * BLOCKS) + decoding

    @property
    def decode_rows(self) -> int:
        """Rows that Arrow decodes at once, in each thread."""
        least, most = _DECODE_BYTES
        wanted = min(most, max(least, self.total // (16 * self.threads)))
        return max(1, wanted // self.row_bytes)

    @property
    def least(self) -> int:
        return self.fixed + self.streams * self.window_rows * self.window_row_bytes

    @property
    def for_windows(self) -> int:
        return self.total - self.fixed


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


class Buffers:
    """Memory for windows, kept for the next ones: fresh pages cost as much as decoding does.

    `batches` is that of batches.

    Args:
        limit_bytes: of all buffers, in use or kept.
        row_words: words of a row.
    """

    def __init__(self, limit_bytes: int, row_words: int) -> None:
        self._limit_rows = limit_bytes // (4 * row_words + _PLACE_BYTES)
        self._row_words = row_words
        self._used_rows = self._kept_rows = 0
        self._kept: list[tuple[int, int, Words]] = []
        self.batches = Recycled()

    def take(self, rows: int) -> Words | None:
        """Memory for a window, int32 [rows, W] of anything; None where the limit has no room."""
        at = bisect_left(self._kept, (rows,))
        if at < len(self._kept):
            _, _, whole = self._kept.pop(at)
            self._kept_rows -= len(whole)
        elif self._used_rows + rows <= self._limit_rows:
            self._shrink(self._limit_rows - self._used_rows - rows)
            whole = np.empty((rows, self._row_words), np.int32)
        else:
            return None
        self._used_rows += len(whole)
        return whole[:rows]

    def give(self, words: Words) -> None:
        """Takes back what `take` gave."""
        whole = words if words.base is None else words.base
        self._used_rows -= len(whole)
        self._kept_rows += len(whole)
        insort(self._kept, (len(whole), id(whole), whole))

    def _shrink(self, rows: int) -> None:
        """Lets go of kept buffers, the smallest first, until at most `rows` rows are kept."""
        while self._kept_rows > rows:
            _, _, whole = self._kept.pop(0)
            self._kept_rows -= len(whole)
