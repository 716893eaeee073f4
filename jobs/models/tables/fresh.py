"""Fresh rows of embedding tables: a function of seed, table and row, so any rank makes its own.

The bits are the same on any machine: whole numbers are hashed (SplitMix64), added up and rounded
once. The sum of four numbers of 16 bits stands for a normal one: it has the same mean and standard
deviation, no value beyond 3.5 of them, and an excess kurtosis of -0.3.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Words = npt.NDArray[np.uint64]

# Values that are made together; they stay in the processor's cache.
_PART = 65_536
_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_BITS = np.uint64(0xFFFF)
# Of the sum of four uniform whole numbers below 2^16.
_MEAN, _STD = 2 * 0xFFFF, math.sqrt((2.0**32 - 1) / 3)


def fresh_rows(seed: int, table: str, ids: Tensor, dim: int, std: float) -> Tensor:
    """The fresh values of some rows of a table.

    Args:
        seed: of the training, 64 bits.
        table: its name.
        ids: int64 [k], of the rows.
        dim: values of a row, E.
        std: their standard deviation; their mean is 0.

    Returns:
        float32 [k, E].
    """
    rows = torch.zeros(len(ids), dim)
    if not std:
        return rows
    digest = hashlib.sha256(f"{seed} {table}".encode()).digest()
    key = np.frombuffer(digest[:8], np.dtype("<u8")).astype(np.uint64)
    scale = np.float32(std / _STD)
    step = max(1, _PART // dim)
    columns = np.arange(dim, dtype=np.uint64)
    for begin in range(0, len(ids), step):
        some = ids[begin : begin + step].numpy().astype(np.uint64)
        words = _mixed((some[:, None] * np.uint64(dim) + columns) * _GAMMA + key)
        rows[begin : begin + step] = torch.from_numpy(_sums(words) * scale)
    return rows


def _mixed(words: Words) -> Words:
    words = (words ^ words >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ words >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return words ^ words >> np.uint64(31)


def _sums(words: Words) -> npt.NDArray[np.float32]:
    """The sum of each word's four numbers of 16 bits, less its mean: exact in float32."""
    total = words & _BITS
    for shift in (16, 32, 48):
        total += words >> np.uint64(shift) & _BITS
    return (total.astype(np.int32) - _MEAN).astype(np.float32)
