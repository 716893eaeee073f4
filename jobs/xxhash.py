"""Spark's `xxhash64` of texts and of bigints, by NumPy: many at a time, the same bits.

The algorithm is XXH64 (https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md) with the
seed 42. Texts of one length are hashed together, eight bytes a step.
"""

from __future__ import annotations

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
    hashes = (_SEED + _P5 + np.uint64(8)) ^ _round(np.uint64(0), numbers.view(np.uint64))
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
