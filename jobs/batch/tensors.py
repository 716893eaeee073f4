"""Tensor, image and list fields: from Arrow to words of a row, and from words to tensors.

n rows of an Arrow batch, b rows of a batch, L the longest list of a field.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from jobs.batch.columns import decoded, fixed_shape, padded
from schemas.dataset import Dataset
from schemas.field import CategoricalList, Image, NumericList, Tensor

Words = npt.NDArray[np.int32]

LENGTH = "_length"
_WORD = 4


class Codec(Protocol):
    """How a field lies in 4-byte words.

    Attributes:
        name: of the stored column.
        words: of a row.
    """

    @property
    def name(self) -> str: ...

    @property
    def words(self) -> int: ...

    def encode(self, column: pa.Array) -> Words:
        """A column as words, int32 [n, words]; DataRefused where it is none of the field's."""

    def tensors(self, words: Words) -> dict[str, torch.Tensor]:
        """Words, int32 [b, words] and contiguous, as tensors by name, which may share memory."""


def tensor_codecs(dataset: Dataset) -> list[Codec]:
    """Of the fields that become tensors of their own, in the declaration's order."""
    made: list[Codec] = []
    for f in dataset.fields:
        match f:
            case Tensor():
                made.append(_Fixed(f.name, f.shape))
            case Image():
                made.append(_Pixels(f))
            case NumericList():
                made.append(_Padded(f.name, f.max_length, torch.float32))
            case CategoricalList():
                made.append(_Padded(f.name, f.max_length, torch.int64))
    return made


@dataclass(frozen=True)
class _Fixed:
    """Numbers of a fixed shape: float32 [b, *shape]."""

    name: str
    shape: tuple[int, ...]

    @property
    def words(self) -> int:
        return math.prod(self.shape)

    def encode(self, column: pa.Array) -> Words:
        return fixed_shape(column, self.name, self.shape).view(np.int32)

    def tensors(self, words: Words) -> dict[str, torch.Tensor]:
        numbers = torch.from_numpy(words.view(np.float32))
        return {self.name: numbers.reshape(-1, *self.shape)}


class _Pixels:
    """Images: uint8 [b, *shape]."""

    def __init__(self, field: Image) -> None:
        # It brings pandas, half a second of every worker that scores rows without images.
        from jobs.petastorm_arrow import image_decoder

        self.name = field.name
        self._shape = field.shape
        self._bytes = math.prod(field.shape)
        self.words = -(-self._bytes // _WORD)
        self._decode = image_decoder(field)

    def encode(self, column: pa.Array) -> Words:
        pixels = decoded(column, self.name, self._shape, self._decode)
        return np.pad(pixels, ((0, 0), (0, self.words * _WORD - self._bytes))).view(np.int32)

    def tensors(self, words: Words) -> dict[str, torch.Tensor]:
        pixels = np.ascontiguousarray(words.view(np.uint8)[:, : self._bytes])
        return {self.name: torch.from_numpy(pixels.reshape(-1, *self._shape))}


@dataclass(frozen=True)
class _Padded:
    """Lists, [b, L] with zeros behind their end, and their lengths, int64 [b].

    The last word of a row is the length.
    """

    name: str
    max_length: int
    dtype: torch.dtype

    @property
    def words(self) -> int:
        return self.max_length + 1

    def encode(self, column: pa.Array) -> Words:
        elements, lengths = padded(column, self.name, self.max_length)
        return np.concatenate([elements.view(np.int32), lengths[:, None]], axis=1)

    def tensors(self, words: Words) -> dict[str, torch.Tensor]:
        elements = words[:, :-1].view(np.float32 if self.dtype == torch.float32 else np.int32)
        numbers = elements.astype(np.float32 if self.dtype == torch.float32 else np.int64)
        return {
            self.name: torch.from_numpy(numbers),
            f"{self.name}{LENGTH}": torch.from_numpy(words[:, -1].astype(np.int64)),
        }
