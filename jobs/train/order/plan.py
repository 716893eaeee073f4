"""The order of an epoch: which row comes when, for any number of ranks. Pure, and without I/O.

Row groups, permuted, make one line of N rows, cut into S streams of equal length. A stream is read
in windows of whole row groups; the rows of a window are permuted. The epoch's order is the
round-robin of the streams: global row g is row g div S of stream g mod S. Nothing here knows the
number of ranks except `RankShare`, which says what of that order is one rank's.

Time and memory are O(row groups) for the plan and O(row groups of the stream) for the windows of
a stream, never O(rows).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from jobs.base.errors import ConfigError

Ints = npt.NDArray[np.int64]

# Name of the algorithm in fingerprints: any change of the order it gives needs another name.
ORDER = "millstream-1"

# Pieces of a stream whose windows are worked out together; the first batch needs only a few.
_PIECES_AT_ONCE = 4096

_MASK = 2**64 - 1
_GAMMA = 0x9E3779B97F4A7C15


def key_of(*numbers: int) -> int:
    """A 64-bit key from integers; the order of the numbers matters."""
    key = 0
    for number in numbers:
        key = _mixed(key ^ _mixed((number + _GAMMA) & _MASK)) + _GAMMA & _MASK
    return key


def _mixed(word: int) -> int:
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    word = (word ^ word >> 27) * 0x94D049BB133111EB & _MASK
    return word ^ word >> 31


def permutation(size: int, key: int) -> Ints:
    """A permutation of 0 .. size-1 that depends on `key` alone.

    By NumPy's RandomState: unlike those of its newer generators, its sequences are frozen.
    """
    shuffled = np.random.RandomState(np.random.PCG64(key)).permutation(size)
    return shuffled.astype(np.int64, copy=False)


@dataclass(frozen=True)
class Window:
    """Consecutive rows of a stream that are permuted together.

    Attributes:
        stream, number: whose window, and which.
        begin: row of the stream at which it begins.
        groups: int64 [p], the row groups read, in the order of the line.
        first: int64 [p], first row taken of each.
        rows_of: int64 [p], rows taken of each.
        key: of the permutation.
    """

    stream: int
    number: int
    begin: int
    groups: Ints
    first: Ints
    rows_of: Ints
    key: int

    @property
    def rows(self) -> int:
        return int(self.rows_of.sum())

    @property
    def end(self) -> int:
        return self.begin + self.rows

    def places(self) -> Ints:
        """int64 [rows]: for each row as read, its place in the order."""
        return permutation(self.rows, self.key)

    def order(self) -> Ints:
        """int64 [rows]: for each place in the order, the row as read; `places` inverted."""
        places = self.places()
        order = np.empty_like(places)
        order[places] = np.arange(len(places))
        return order


class EpochPlan:
    """The order of one epoch.

    Args:
        group_rows: int64 [R], rows of each row group, numbered by (ds, split, shard, row group).
        streams, window_rows, seed: the settings that define the order.
        epoch: number of the epoch.
    """

    def __init__(
        self, group_rows: Ints, *, streams: int, window_rows: int, seed: int, epoch: int
    ) -> None:
        self.streams, self.window_rows = streams, window_rows
        self._seed, self._epoch = seed, epoch
        key, filled = key_of(seed, epoch), int(np.count_nonzero(group_rows))
        self._groups: Ints = permutation(filled, key)
        if filled < len(group_rows):
            self._groups = np.flatnonzero(group_rows)[self._groups]
        # Position in the line at which each permuted row group ends.
        self._ends: Ints = group_rows[self._groups]
        np.cumsum(self._ends, out=self._ends)
        self.rows = int(self._ends[-1]) if len(self._ends) else 0

    def stream_bounds(self, stream: int) -> tuple[int, int]:
        """First and past-the-last position in the line; the longer streams come first."""
        rows, longer = divmod(self.rows, self.streams)
        begin = stream * rows + min(stream, longer)
        return begin, begin + rows + (stream < longer)

    def windows(self, stream: int, start: int = 0) -> Iterator[Window]:
        """The windows of a stream from the one that holds its row `start`."""
        line_begin, line_end = self.stream_bounds(stream)
        if line_begin + start >= line_end:
            return
        low = int(np.searchsorted(self._ends, line_begin, side="right"))
        high = int(np.searchsorted(self._ends, line_end, side="left")) + 1
        piece, number, begin = 0, 0, line_begin
        known, closing = 0, np.empty(0, np.int32)
        while begin < line_end:
            if piece >= known + len(closing):
                known, closing = piece, self._closing(low, high, line_begin, piece)
            last = int(closing[piece - known])
            end = min(int(self._ends[low + last]), line_end)
            if end > line_begin + start:
                pieces = slice(low + piece, low + last + 1)
                yield self._window(stream, number, pieces, begin, end)
            piece, number, begin = last + 1, number + 1, end

    def _closing(self, low: int, high: int, line_begin: int, first: int) -> npt.NDArray[np.int32]:
        """For windows that begin with pieces `first` .. of a stream, the pieces that fill them."""
        ends = self._ends[low:high]
        wanted = ends[max(first - 1, 0) : first - 1 + _PIECES_AT_ONCE].copy()
        if not first:
            wanted = np.concatenate(([line_begin], wanted))
        closing = np.searchsorted(ends, wanted + self.window_rows, side="left")
        return np.minimum(closing, len(ends) - 1).astype(np.int32)

    def _window(self, stream: int, number: int, pieces: slice, begin: int, end: int) -> Window:
        ends = self._ends[pieces]
        starts = np.concatenate(([begin], ends[:-1]))
        rows_of = np.minimum(ends, end) - starts
        first = np.zeros_like(starts)
        before = int(self._ends[pieces.start - 1]) if pieces.start else 0
        first[0] = begin - before
        line_begin, _ = self.stream_bounds(stream)
        key = key_of(self._seed, self._epoch, stream, number)
        groups = self._groups[pieces]
        return Window(stream, number, begin - line_begin, groups, first, rows_of, key)


@dataclass(frozen=True)
class RankShare:
    """What of the order is one rank's: the streams s with s mod size = rank.

    Raises:
        ConfigError: more ranks than streams, or a batch that streams cannot share equally.
    """

    rows: int
    streams: int
    batch_rows: int
    rank: int = 0
    size: int = 1

    def __post_init__(self) -> None:
        if self.size > self.streams:
            raise ConfigError(
                f"{self.size} ranks (size), {self.streams} streams (stream.streams)",
                "at most one rank a stream",
                "raise stream.streams, which starts another order, or train with fewer ranks",
            )
        if self.batch_rows < 1 or self.batch_rows % self.streams:
            raise ConfigError(
                f"batch_rows is {self.batch_rows}, stream.streams {self.streams}",
                "a multiple of stream.streams, so that a batch takes equally from all streams",
            )

    @property
    def owned(self) -> Ints:
        """int64 [S_r]: the rank's streams."""
        return np.arange(self.rank, self.streams, self.size, dtype=np.int64)

    @property
    def piece_rows(self) -> int:
        """Rows of one stream in a full global batch."""
        return self.batch_rows // self.streams

    def steps(self, start_row: int = 0) -> int:
        """Batches from global row `start_row` to the end of the epoch; the same for all ranks."""
        return -(-max(self.rows - start_row, 0) // self.batch_rows)

    def rows_before(self, row: int) -> Ints:
        """int64 [S_r]: rows of each owned stream that come before a global row."""
        before = -((self.owned - min(row, self.rows)) // self.streams)
        return np.maximum(before, 0)


def windows_by_need(plan: EpochPlan, streams: Sequence[int], starts: Ints) -> Iterator[Window]:
    """The windows of several streams, in the order in which consumption reaches them."""
    waiting: list[tuple[int, int, Window, Iterator[Window]]] = []
    for stream, start in zip(streams, starts.tolist(), strict=True):
        windows = plan.windows(int(stream), start)
        for window in windows:
            waiting.append((window.begin, window.stream, window, windows))
            break
    heapq.heapify(waiting)
    while waiting:
        _, _, window, windows = waiting[0]
        following = next(windows, None)
        if following is None:
            heapq.heappop(waiting)
        else:
            heapq.heapreplace(waiting, (following.begin, following.stream, following, windows))
        yield window


def window_bound(group_rows: Ints, streams: int, window_rows: int) -> int:
    """Rows of the largest window that any epoch can have."""
    if not len(group_rows):
        return 0
    longest_stream = -(-int(group_rows.sum()) // streams)
    return min(longest_stream, window_rows - 1 + int(group_rows.max()))
