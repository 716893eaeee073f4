"""Spark's `xxhash64` of rows by NumPy: many rows at a time, the same bits.

The algorithm is XXH64 (https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md) with the
seed 42. The hash of a row's columns so far is the seed of the next column's, and so are the hashes
of the elements of a list; what is null is skipped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Words = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]
# What Spark's literals are: a string, an int and a bigint.
Literal = str | np.int32 | np.int64

_PRIMES = (
    0x9E3779B185EBCA87,
    0xC2B2AE3D27D4EB4F,
    0x165667B19E3779F9,
    0x85EBCA77C2B2AE63,
    0x27D4EB2F165667C5,
)
_P1, _P2, _P3, _P4, _P5 = (np.uint64(prime) for prime in _PRIMES)
_LANES = (_PRIMES[0] + _PRIMES[1], _PRIMES[1], 0, -_PRIMES[0])
_STARTS = np.array([start % 2**64 for start in _LANES], np.uint64)
_SEED = 42
# Bytes; divided by with shifts and masks, which are quicker than division.
_STRIPE, _WORD, _HALF = 32, 8, 4
_STRIPE_BITS = 5
# So many rows at a time, whose hashes stay in the processor's cache.
_ROWS = 8192
# Rows with 128 steps and more are taken together, so that the others do not wait for them.
_MANY_STEPS_BITS = 7

_FOUR_BYTES = (pa.bool_(), pa.int8(), pa.int16(), pa.int32(), pa.float32(), pa.date32())
_EIGHT_BYTES = (pa.int64(), pa.float64())
_TEXTS = (pa.string(), pa.binary())
_LARGE_TEXTS = (pa.large_string(), pa.large_binary())


def xxhash64(texts: pa.Array) -> Ints:
    """The hash of each text [n]."""
    return xxhash64_of_rows([texts])


def xxhash64_of_pair(numbers: Ints, text: str) -> Ints:
    """The hash of each of the numbers [n] together with the text."""
    return xxhash64_of_rows([pa.array(numbers, pa.int64()), text])


def xxhash64_of_numbers(numbers: Ints) -> Words:
    """The hash of each bigint [n], without sign."""
    return _Numbers(numbers.view(np.uint64), wide=True).hashes(np.full(1, _SEED, np.uint64))


def xxhash64_of_rows(columns: Iterable[pa.Array | pa.ChunkedArray | Literal]) -> Ints:
    """The hash of each row [n], as `F.xxhash64` gives it for these columns.

    Args:
        columns: arrays [n] of types that `is_hashed` tells, one at least, and literals, in any
            order. `F.lit(7)` is `np.int32(7)`, and `np.int64(7)` is `F.lit(7).cast("bigint")`.
    """
    hashes = np.full(1, _SEED, np.uint64)
    for column in columns:
        hashes = _chained(column, hashes)
    return hashes.view(np.int64)


def is_hashed(kind: pa.DataType) -> bool:
    """Whether `xxhash64_of_rows` takes a column of this type: numbers, texts, and lists of them."""
    if _is_list(kind):
        kind = kind.value_type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return hashes_as_numbers(kind) or kind in (*_TEXTS, *_LARGE_TEXTS)


def hashes_as_numbers(kind: pa.DataType) -> bool:
    """Whether a column of this type is one of numbers, dates, times or booleans that is hashed."""
    return kind in _FOUR_BYTES or kind in _EIGHT_BYTES or _is_time(kind)


def _is_time(kind: pa.DataType) -> bool:
    return bool(pa.types.is_timestamp(kind)) and kind.unit == "us"


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _chained(column: pa.Array | pa.ChunkedArray | Literal, before: Words) -> Words:
    """The hashes after this column.

    Args:
        before: those of the columns before it [n]; [1] where all rows have one.
    """
    if isinstance(column, str):
        return _plain(pa.array([column], pa.string())).hashes(before)
    if isinstance(column, np.int32 | np.int64):
        return _plain(pa.array(np.array([column]))).hashes(before)
    if not is_hashed(column.type):
        raise TypeError(f"no xxhash64 of {column.type}")
    if not len(column):
        return np.zeros(0, np.uint64)
    if isinstance(column, pa.ChunkedArray):
        ends = np.cumsum([len(chunk) for chunk in column.chunks])[:-1]
        seeds = np.split(before, ends) if len(before) > 1 else [before] * column.num_chunks
        return np.concatenate([_chained(*pair) for pair in zip(column.chunks, seeds, strict=True)])
    if _is_list(column.type):
        return _of_lists(column, before)
    if pa.types.is_dictionary(column.type):
        if len(before) == 1 and len(column.dictionary) <= len(column):
            return _of_distinct(column, before)
        column = column.dictionary.take(column.indices)
    found = _plain(column).hashes(before)
    return np.where(np.asarray(column.is_valid()), found, before) if column.null_count else found


def _of_distinct(column: pa.DictionaryArray, before: Words) -> Words:
    """Hashes [n] by those of the distinct values, where all rows have one hash before [1]."""
    values = column.dictionary
    places = column.indices.cast(pa.int64()).fill_null(len(values)).to_numpy()
    taken: Words = np.append(_chained(values, before), before)[places]
    return taken


def _of_lists(column: pa.Array, before: Words) -> Words:
    """Hashes [n]: of all lists' first elements, then of their second ones, ..."""
    values, starts, counts = _elements(column)
    hashes = np.empty(len(column), np.uint64)
    before = np.broadcast_to(before, len(column))
    for rows in _blocks(counts):
        found, places = before[rows], starts[rows]
        for still in _still(counts[rows]):
            found[:still] = values.take(places[:still]).hashes(found[:still])
            places += 1
        hashes[rows] = found
    return hashes


def _elements(column: pa.Array) -> tuple[_Numbers | _Texts, Ints, Ints]:
    """The elements of all lists that are not null, and where each list's begin and their count."""
    ends = column.offsets.to_numpy().astype(np.int64)
    elements = column.values.slice(ends[0], ends[-1] - ends[0])
    ends -= ends[0]
    if pa.types.is_dictionary(elements.type):
        elements = elements.dictionary.take(elements.indices)
    if elements.null_count:
        kept = np.concatenate([[0], np.cumsum(np.asarray(elements.is_valid()), dtype=np.int64)])
        elements, ends = elements.drop_null(), kept[ends]
    counts = np.where(np.asarray(column.is_valid()), np.diff(ends), 0)
    return _plain(elements), ends[:-1], counts


def _plain(column: pa.Array) -> _Numbers | _Texts:
    """The values of a column that is no list and no dictionary; any where it is null."""
    kind = column.type
    if hashes_as_numbers(kind):
        return _Numbers(_words(column), wide=kind not in _FOUR_BYTES)
    if not len(column):
        return _Texts(np.zeros(_WORD, np.uint8), np.zeros(0, np.int64), np.zeros(0, np.int64))
    _, offset_buffer, data = column.buffers()
    whole = np.frombuffer(offset_buffer, np.int64 if kind in _LARGE_TEXTS else np.int32)
    ends = whole[column.offset : column.offset + len(column) + 1].astype(np.int64)
    content = np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)
    if len(content) < _WORD:
        content = np.concatenate([content, np.zeros(_WORD, np.uint8)])
    return _Texts(content, ends[:-1], np.diff(ends))


def _words(column: pa.Array) -> Words:
    """The bits that Spark hashes [n]; any where the column is null."""
    kind = column.type
    if pa.types.is_floating(kind):
        bits = {4: np.uint32, 8: np.uint64}[kind.bit_width // 8]
        # Minus zero is zero, and a number that is none has one form.
        numbers = column.fill_null(0).to_numpy() + kind.to_pandas_dtype()(0)
        numbers[np.isnan(numbers)] = np.nan
        return np.asarray(numbers.view(bits), np.uint64)
    if pa.types.is_boolean(kind):
        return np.asarray(column.fill_null(False)).astype(np.uint64)
    if pa.types.is_temporal(kind):
        column = column.view(pa.int32() if kind == pa.date32() else pa.int64())
    numbers = column.fill_null(0).to_numpy()
    if kind.bit_width == 64:
        return np.asarray(numbers.view(np.uint64))
    return np.asarray(numbers.astype(np.int32).view(np.uint32), np.uint64)


@dataclass(frozen=True)
class _Numbers:
    """Numbers of four bytes, or of eight, that are hashed as one word [n]."""

    words: Words
    wide: bool

    def take(self, rows: Ints) -> _Numbers:
        return _Numbers(self.words[rows], self.wide)

    def hashes(self, before: Words) -> Words:
        """Hashes [n]; one number, or one hash before, serves all."""
        words, before = np.broadcast_arrays(self.words, before)
        hashes = np.empty(len(words), np.uint64)
        of = _of_eight if self.wide else _of_four
        for start in range(0, len(words), _ROWS):
            block = slice(start, start + _ROWS)
            hashes[block] = of(words[block], before[block])
        return hashes


def _of_four(words: Words, seeds: Words) -> Words:
    return _avalanched(_with_half(seeds + (_P5 + np.uint64(_HALF)), words))


def _of_eight(words: Words, seeds: Words) -> Words:
    return _avalanched(_with_word(seeds + (_P5 + np.uint64(_WORD)), words))


@dataclass(frozen=True)
class _Texts:
    """Runs of bytes in a content of eight bytes at least.

    Args:
        content: bytes.
        starts: where each run begins [n].
        lengths: bytes of each [n].
    """

    content: Bytes
    starts: Ints
    lengths: Ints

    def take(self, rows: Ints) -> _Texts:
        return _Texts(self.content, self.starts[rows], self.lengths[rows])

    def hashes(self, before: Words) -> Words:
        """Hashes [n]; one text, or one hash before, serves all."""
        starts, lengths, before = np.broadcast_arrays(self.starts, self.lengths, before)
        hashes = np.empty(len(starts), np.uint64)
        for rows in _blocks(lengths >> _STRIPE_BITS):
            texts = _Texts(self.content, starts[rows], lengths[rows])
            hashes[rows] = texts._of_block(before[rows])
        return hashes

    def _of_block(self, seeds: Words) -> Words:
        """Hashes of texts that are sorted by their stripes, most first."""
        hashes = seeds + _P5
        still = _still(self.lengths >> _STRIPE_BITS)
        if still:
            hashes[: still[0]] = self._striped(seeds[: still[0]], still)
        hashes += self.lengths.view(np.uint64)
        self._add_words(hashes)
        self._add_rest(hashes)
        return _avalanched(hashes)

    def _striped(self, seeds: Words, still: list[int]) -> Words:
        """The hashes after all whole stripes of the texts that have any.

        Args:
            still: how many texts have a first stripe, a second, ...
        """
        lanes = seeds[:, None] + _STARTS
        stripes = _at_every_byte(self.content, _STRIPE)
        spare = np.empty_like(lanes)
        places = self.starts[: len(seeds)].copy()
        for count in still:
            words = stripes[places[:count]].view("<u8").reshape(count, len(_LANES))
            words *= _P2
            words += lanes[:count]
            _rotate(words, 31, spare[:count])
            np.multiply(words, _P1, out=lanes[:count])
            places += _STRIPE
        hashes = np.zeros_like(seeds)
        for lane, by in enumerate((1, 7, 12, 18)):
            hashes += _rotated(lanes[:, lane], by)
        for lane in range(len(_LANES)):
            hashes = (hashes ^ _mixed(lanes[:, lane])) * _P1 + _P4
        return hashes

    def _add_words(self, hashes: Words) -> None:
        """The words of eight bytes after the stripes."""
        left = self.lengths & (_STRIPE - 1)
        words = _at_every_byte(self.content, _WORD)
        places = self.starts + (self.lengths - left)
        for step in range(_STRIPE // _WORD - 1):
            rows = np.flatnonzero(left >= (step + 1) * _WORD)
            if len(rows):
                found = words[places[rows] + step * _WORD].view("<u8")
                hashes[rows] = _with_word(hashes[rows], found)

    def _add_rest(self, hashes: Words) -> None:
        """The bytes after the last whole word: four if there are, then one by one."""
        left = self.lengths & (_WORD - 1)
        rows = np.flatnonzero(left)
        if not len(rows):
            return
        left = left[rows]
        rest = self._last_words(self.starts[rows] + self.lengths[rows] - left)
        part = hashes[rows]
        fours = np.flatnonzero(left >= _HALF)
        part[fours] = _with_half(part[fours], rest[fours] & np.uint64(0xFFFFFFFF))
        rest[fours] >>= np.uint64(32)
        for step in range(_HALF - 1):
            ones = np.flatnonzero(left & (_HALF - 1) > step)
            byte = (rest[ones] >> np.uint64(8 * step)) & np.uint64(0xFF)
            part[ones] = _rotated(part[ones] ^ (byte * _P5), 11) * _P1
        hashes[rows] = part

    def _last_words(self, places: Ints) -> Words:
        """The eight bytes from each place; zeros for those beyond the content's end."""
        beyond = np.maximum(places - (len(self.content) - _WORD), 0)
        words: Words = _at_every_byte(self.content, _WORD)[places - beyond].view("<u8")
        return words >> (beyond * 8).view(np.uint64)


def _blocks(steps: Ints) -> Iterator[Ints]:
    """The numbers of all rows, some at a time, within each those first that take most steps."""
    order = np.argsort(steps >> _MANY_STEPS_BITS, kind="stable")
    for start in range(0, len(order), _ROWS):
        rows = order[start : start + _ROWS]
        own = steps[rows]
        yield rows[np.argsort(-own)] if own.any() else rows


def _still(steps: Ints) -> list[int]:
    """How many rows take a first step, a second, ... and the last that any takes."""
    found: list[int] = (len(steps) - np.cumsum(np.bincount(steps))[:-1]).tolist()
    return found


def _at_every_byte(content: Bytes, size: int) -> npt.NDArray[np.void]:
    """A view of the `size` bytes from each place on. NumPy gathers such quickly, aligned or not."""
    count = max(len(content) - size + 1, 0)
    return np.ndarray((count,), f"V{size}", content, strides=(1,))


def _with_word(hashes: Words, words: Words) -> Words:
    return _rotated(hashes ^ _mixed(words), 27) * _P1 + _P4


def _with_half(hashes: Words, halves: Words) -> Words:
    return _rotated(hashes ^ (halves * _P1), 23) * _P2 + _P3


def _mixed(words: Words) -> Words:
    return _rotated(words * _P2, 31) * _P1


def _rotated(words: Words, by: int) -> Words:
    return (words << np.uint64(by)) | (words >> np.uint64(64 - by))


def _rotate(words: Words, by: int, spare: Words) -> None:
    np.left_shift(words, np.uint64(by), out=spare)
    words >>= np.uint64(64 - by)
    words |= spare


def _avalanched(words: Words) -> Words:
    words = (words ^ (words >> np.uint64(33))) * _P2
    words = (words ^ (words >> np.uint64(29))) * _P3
    return words ^ (words >> np.uint64(32))
