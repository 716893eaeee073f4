"""Columns, as Arrow decodes them, to rows of words side by side."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from jobs.batch.tensors import Words
from jobs.train.read.memory import CHUNK_BYTES

# Columns that begin a multiple of 4,096 bytes apart would share the few places of the cache that
# such addresses map to, and take four times as long.
_PAGE_WORDS = 1024
_PADDING_WORDS = 16
# Parts of more words a row are copied as they are.
_NARROW_WORDS = 2


class ColumnsToRows:
    """Writes columns as rows, in pieces that fit the cache: a transposition of 4-byte words."""

    def __init__(self) -> None:
        self._staged: Words = np.empty(0, np.int32)

    def write(self, parts: Sequence[tuple[slice, Words]], rows: Words) -> None:
        """Writes n rows.

        Args:
            parts: for each column which words of a row it makes, and these, int32 [n, w].
            rows: where they go, int32 [n, W].
        """
        narrow, wide = _narrow_first(parts)
        for place, part in wide:
            rows[:, place] = part
        low = 0
        while narrow and low < len(rows):
            high = low + _rows_at_once(len(rows) - low, len(narrow))
            staged = self._staging(len(narrow) * (high - low))
            np.concatenate([column[low:high] for column in narrow], out=staged)
            # By blocks, in half the time that NumPy takes, which goes column by column.
            cv2.transpose(staged.reshape(len(narrow), -1), rows[low:high, : len(narrow)])
            low = high

    def _staging(self, words: int) -> Words:
        if len(self._staged) < words:
            self._staged = np.empty(words, np.int32)
        return self._staged[:words]


def _rows_at_once(rows: int, columns: int) -> int:
    """Rows of a piece: all that are left, or what fits, but so that columns begin a number of bytes
    apart that is far from a multiple of a page."""
    fitting = min(rows, max(1, CHUNK_BYTES // (4 * columns)))
    beyond = fitting % _PAGE_WORDS
    if fitting > _PAGE_WORDS and (beyond < _PADDING_WORDS or fitting < rows):
        return fitting - beyond - _PAGE_WORDS + _PADDING_WORDS
    return fitting


def _narrow_first(
    parts: Sequence[tuple[slice, Words]],
) -> tuple[list[Words], list[tuple[slice, Words]]]:
    """The leading columns of a word or two, as int32 [n] word by word, and the other parts."""
    narrow: list[Words] = []
    for number, (place, part) in enumerate(parts):
        if part.shape[1] > _NARROW_WORDS or place.start != len(narrow):
            return narrow, list(parts[number:])
        narrow += [part[:, word] for word in range(part.shape[1])]
    return narrow, []
