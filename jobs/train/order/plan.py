"""The order of an epoch: which row is trained when, for any number of ranks. Pure, without I/O.

1. The row groups are permuted. One after the other they make a line of N rows.
2. The line is cut into S streams; the first N mod S of them have one row more than the others.
3. A stream is cut into windows of consecutive row groups, and the rows of a window are permuted.
4. Streams take turns: row g of the epoch is row g div S of stream g mod S.

The order does not depend on the number of ranks. `share.py` says which of its rows one rank has.

Letters: N rows of the epoch, R row groups, S streams, p pieces (row groups, or parts of them at the
ends of a stream) in a window. Time and memory are O(R) for the plan and O(row groups of the stream)
for the windows of a stream, never O(N).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

# Name of the algorithm in fingerprints. A change that gives another order needs another name.
ORDER = "millstream-1"

# Pieces whose windows are computed together. All at once would delay the first batch.
_PIECES_AT_ONCE = 4096

# Of SplitMix64, whose mixing function `_mixed` is.
_MASK = 2**64 - 1
_GAMMA = 0x9E3779B97F4A7C15


def key_of(*numbers: int) -> int:
    """Hashes integers, in their order, to a 64-bit key for `permutation`."""
    key = 0
    for number in numbers:
        key = _mixed(key ^ _mixed((number + _GAMMA) & _MASK)) + _GAMMA & _MASK
    return key


def _mixed(word: int) -> int:
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    word = (word ^ word >> 27) * 0x94D049BB133111EB & _MASK
    return word ^ word >> 31


def permutation(size: int, key: int) -> Ints:
    """A random permutation of 0 .. size - 1, int64 [size]; the same for the same key.

    From NumPy's RandomState, whose sequences never change between versions of NumPy, unlike those
    of its newer Generator.
    """
    shuffled = np.random.RandomState(np.random.PCG64(key)).permutation(size)
    return shuffled.astype(np.int64, copy=False)


@dataclass(frozen=True)
class Window:
    """Consecutive rows of a stream that are permuted together.

    Attributes:
        stream: number of the stream.
        number: of the window in its stream, from 0.
        begin: index in the stream of the window's first row.
        groups: int64 [p], numbers of the row groups that it takes rows of, in the line's order.
        first: int64 [p], for each of them, the index of the first row that is taken.
        rows_of: int64 [p], for each of them, how many rows are taken.
        key: of the permutation of the window's rows.
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
        """Number of rows in the window."""
        return int(self.rows_of.sum())

    @property
    def end(self) -> int:
        """Index in the stream of the row after the window's last."""
        return self.begin + self.rows

    def places(self) -> Ints:
        """int64 [rows]: for each row, as it is read, its index in the window's order."""
        return permutation(self.rows, self.key)

    def order(self) -> Ints:
        """int64 [rows]: for each index in the window's order, the row, as it is read.

        The inverse of `places`.
        """
        places = self.places()
        order = np.empty_like(places)
        order[places] = np.arange(len(places))
        return order


class EpochPlan:
    """The order of one epoch.

    Args:
        group_rows: int64 [R], number of rows of each row group, ordered by (ds, split, shard, row
            group).
        streams: S.
        window_rows: a window ends with the row group that brings it to this many rows.
        seed: of all permutations, with the epoch.
        epoch: number of the epoch, from 0.

    Attributes:
        rows: N.
    """

    def __init__(
        self, group_rows: Ints, *, streams: int, window_rows: int, seed: int, epoch: int
    ) -> None:
        self.streams, self.window_rows = streams, window_rows
        self._seed, self._epoch = seed, epoch
        # int64 [row groups that have rows]: their numbers, permuted.
        with_rows = int(np.count_nonzero(group_rows))
        self._groups: Ints = permutation(with_rows, key_of(seed, epoch))
        if with_rows < len(group_rows):
            self._groups = np.flatnonzero(group_rows)[self._groups]
        # Of the same shape: where each of them ends in the line.
        self._ends: Ints = group_rows[self._groups]
        np.cumsum(self._ends, out=self._ends)
        self.rows = int(self._ends[-1]) if len(self._ends) else 0

    def stream_bounds(self, stream: int) -> tuple[int, int]:
        """Where a stream begins and ends in the line: its first row, and the row after its last."""
        rows, longer = divmod(self.rows, self.streams)
        begin = stream * rows + min(stream, longer)
        return begin, begin + rows + (stream < longer)

    def windows(self, stream: int, start: int = 0) -> Iterator[Window]:
        """The windows of a stream, in order, from the one that holds the stream's row `start`."""
        line_begin, line_end = self.stream_bounds(stream)
        if line_begin + start >= line_end:
            return
        # The stream's pieces are `self._groups[low:high]`, and counted from 0 here.
        low = int(np.searchsorted(self._ends, line_begin, side="right"))
        high = int(np.searchsorted(self._ends, line_end, side="left")) + 1
        piece, number, begin = 0, 0, line_begin
        # int32 [..]: the last piece of a window that begins with piece `known`, `known` + 1, ...
        known, last_pieces = 0, np.empty(0, np.int32)
        while begin < line_end:
            if piece >= known + len(last_pieces):
                known, last_pieces = piece, self._last_pieces(low, high, line_begin, piece)
            last = int(last_pieces[piece - known])
            end = min(int(self._ends[low + last]), line_end)
            if end > line_begin + start:
                pieces = slice(low + piece, low + last + 1)
                yield self._window(stream, number, pieces, begin, end)
            piece, number, begin = last + 1, number + 1, end

    def _last_pieces(
        self, low: int, high: int, line_begin: int, first: int
    ) -> npt.NDArray[np.int32]:
        """The last piece of the window that would begin with each of some pieces of a stream.

        Args:
            low, high: the stream's pieces are `self._groups[low:high]`.
            line_begin: where the stream begins in the line.
            first: the first of the pieces asked for, counted in the stream.

        Returns:
            int32 [up to _PIECES_AT_ONCE]: for pieces `first`, `first` + 1, ... of the stream, the
            piece whose end fills the window, or the stream's last one.
        """
        ends = self._ends[low:high]
        # Where the pieces begin in the line: where those before them end.
        begins = ends[max(first - 1, 0) : first - 1 + _PIECES_AT_ONCE].copy()
        if not first:
            begins = np.concatenate(([line_begin], begins))
        last = np.searchsorted(ends, begins + self.window_rows, side="left")
        return np.minimum(last, len(ends) - 1).astype(np.int32)

    def _window(self, stream: int, number: int, pieces: slice, begin: int, end: int) -> Window:
        """A window of `self._groups[pieces]`, from `begin` to `end` in the line."""
        # Each int64 [p]: where the rows taken of a piece begin in the line, and their number.
        ends = self._ends[pieces]
        starts = np.concatenate(([begin], ends[:-1]))
        rows_of = np.minimum(ends, end) - starts
        # A row group may begin before the window only where the stream before has its first rows.
        first = np.zeros_like(starts)
        before = int(self._ends[pieces.start - 1]) if pieces.start else 0
        first[0] = begin - before
        line_begin, _ = self.stream_bounds(stream)
        key = key_of(self._seed, self._epoch, stream, number)
        groups = self._groups[pieces]
        return Window(stream, number, begin - line_begin, groups, first, rows_of, key)


def windows_by_need(plan: EpochPlan, streams: Sequence[int], starts: Ints) -> Iterator[Window]:
    """The windows of several streams, in the order in which their first rows are needed.

    Args:
        streams: their numbers.
        starts: int64 [len(streams)], for each, the row of the stream to begin with.
    """
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
    """Rows of the largest window that any epoch can have.

    Args:
        group_rows: int64 [R], number of rows of each row group.
        streams, window_rows: as in `EpochPlan`.
    """
    if not len(group_rows):
        return 0
    longest_stream = -(-int(group_rows.sum()) // streams)
    return min(longest_stream, window_rows - 1 + int(group_rows.max()))
