"""Spark's `xxhash64` of texts, of numbers and of rows of these, by NumPy: many at a time, the same
bits.

The algorithm is XXH64 (https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md) with the
seed 42. Texts of one length are hashed together, eight bytes a step.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Words = npt.NDArray[np.uint64]

_P1, _P2, _P3, _P4, _P5 = (
    np.uint64(prime)
    for prime in (
        0x9E3779B185EBCA87,
        0xC2B2AE3D27D4EB4F,
        0x165667B19E3779F9,
        0x85EBCA77C2B2AE63,
        0x27D4EB2F165667C5,
    )
)
_SEED = np.uint64(42)
_STRIPE = 4


def xxhash64(texts: pa.StringArray) -> npt.NDArray[np.int64]:
    """The hash of each text [n]; texts must have no nulls."""
    if not len(texts):
        return np.zeros(0, np.int64)
    _, offset_buffer, data = texts.buffers()
    offsets = np.frombuffer(offset_buffer, np.int32)[texts.offset :][: len(texts) + 1]
    content = np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)
    lengths = np.diff(offsets)
    hashes = np.empty(len(texts), np.uint64)
    with np.errstate(over="ignore"):
        for length in np.unique(lengths).tolist():
            rows = np.flatnonzero(lengths == length)
            found = _rows_of(content, offsets[rows], length)
            hashes[rows] = _hashed(found, length, _SEED)
    return hashes.view(np.int64)


def xxhash64_of_pair(numbers: npt.NDArray[np.int64], text: str) -> npt.NDArray[np.int64]:
    """The hash of each of the numbers [n] together with a text shorter than 32 bytes."""
    content = text.encode()
    padded = np.frombuffer(content.ljust(-(-len(content) // 8) * 8, b"\0"), np.uint8)
    with np.errstate(over="ignore"):
        seeds = xxhash64_of_numbers(numbers)
        return _hashed(padded[None], len(content), seeds).view(np.int64)


def xxhash64_of_numbers(numbers: npt.NDArray[np.int64]) -> Words:
    """The hash of each bigint [n], without sign."""
    return _of_eight(numbers.view(np.uint64), np.full(len(numbers), _SEED))


def hashes_as_numbers(kind: pa.DataType) -> bool:
    """Whether `xxhash64_of_rows` takes a column of this type."""
    return _takes_four_bytes(kind) or _takes_eight_bytes(kind)


def xxhash64_of_rows(columns: Iterable[pa.Array]) -> npt.NDArray[np.int64]:
    """The hash of each row [n] of numbers, dates, times and booleans, in which nulls are skipped.

    Args:
        columns: one at least.
    """
    hashes: Words | None = None
    with np.errstate(over="ignore"):
        for column in columns:
            words = _words(column)
            before = np.full(len(words), _SEED) if hashes is None else hashes
            of = _of_four if _takes_four_bytes(column.type) else _of_eight
            hashes = of(words, before)
            if column.null_count:
                hashes = np.where(np.asarray(column.is_valid()), hashes, before)
    assert hashes is not None
    return hashes.view(np.int64)


def _takes_four_bytes(kind: pa.DataType) -> bool:
    return kind in (pa.int8(), pa.int16(), pa.int32(), pa.float32(), pa.bool_(), pa.date32())


def _takes_eight_bytes(kind: pa.DataType) -> bool:
    return kind in (pa.int64(), pa.float64()) or bool(pa.types.is_timestamp(kind))


def _words(column: pa.Array) -> Words:
    """The bits that Spark hashes; any where the column is null."""
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


def _of_four(words: Words, seeds: Words) -> Words:
    hashes = (seeds + (_P5 + np.uint64(4))) ^ (words * _P1)
    return _avalanched(_rotated(hashes, 23) * _P2 + _P3)


def _of_eight(words: Words, seeds: Words) -> Words:
    hashes = (seeds + (_P5 + np.uint64(8))) ^ _round(np.uint64(0), words)
    return _avalanched(_rotated(hashes, 27) * _P1 + _P4)


def _rows_of(
    content: npt.NDArray[np.uint8], starts: npt.NDArray[np.int32], length: int
) -> npt.NDArray[np.uint8]:
    """Bytes [n, length rounded up to a multiple of 8], filled with zeros."""
    padded = np.zeros((len(starts), -(-length // 8) * 8), np.uint8)
    for place in range(length):
        padded[:, place] = content[starts + place]
    return padded


def _hashed(content: npt.NDArray[np.uint8], length: int, seed: Words | np.uint64) -> Words:
    """Hashes of rows of bytes; one row, or one seed, serves all."""
    words: Words = content.view("<u8")
    done = 0
    if length >= 32:
        hashes, done = _stripes(words, length // 32)
    else:
        hashes = np.broadcast_to(seed + _P5, np.broadcast_shapes(words.shape[:1], np.shape(seed)))
    hashes = hashes + np.uint64(length)
    for place in range(done, length // 8):
        hashes = _rotated(hashes ^ _round(np.uint64(0), words[:, place]), 27) * _P1 + _P4
    place = length // 8 * 8
    if length - place >= 4:
        half = content[:, place : place + 4].copy().view("<u4")[:, 0].astype(np.uint64)
        hashes = _rotated(hashes ^ (half * _P1), 23) * _P2 + _P3
        place += 4
    for last in range(place, length):
        hashes = _rotated(hashes ^ (content[:, last].astype(np.uint64) * _P5), 11) * _P1
    return _avalanched(hashes)


def _stripes(words: Words, count: int) -> tuple[Words, int]:
    """The hashes after `count` stripes of 32 bytes, and the words that these took."""
    start = (_SEED + _P1 + _P2, _SEED + _P2, _SEED, _SEED - _P1)
    lanes = [np.full(len(words), value) for value in start]
    for stripe in range(count):
        for lane in range(_STRIPE):
            lanes[lane] = _round(lanes[lane], words[:, stripe * _STRIPE + lane])
    hashes = np.zeros(len(words), np.uint64)
    for state, by in zip(lanes, (1, 7, 12, 18), strict=True):
        hashes = hashes + _rotated(state, by)
    for state in lanes:
        hashes = (hashes ^ _round(np.uint64(0), state)) * _P1 + _P4
    return hashes, count * _STRIPE


def _round(state: Words | np.uint64, word: Words) -> Words:
    return _rotated(state + word * _P2, 31) * _P1


def _rotated(words: Words, by: int) -> Words:
    return (words << np.uint64(by)) | (words >> np.uint64(64 - by))


def _avalanched(words: Words) -> Words:
    words = (words ^ (words >> np.uint64(33))) * _P2
    words = (words ^ (words >> np.uint64(29))) * _P3
    return words ^ (words >> np.uint64(32))
