"""A batch, and its making from words of rows, piece by piece.

Shapes: b rows of a batch, n rows of a piece, W words of a row, D numeric and C categorical fields.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from jobs.batch.batch import Batch
from jobs.batch.tensors import Codec, Words

# As np.empty: memory for an array of a shape and type.
Allocate = Callable[[tuple[int, ...], npt.DTypeLike], npt.NDArray[Any]]

WORD = 4


@dataclass(frozen=True)
class WordRange:
    """Words of a row, what they are, and what they are in a batch."""

    place: slice
    stored: npt.DTypeLike
    wanted: npt.DTypeLike

    def array(self, rows: int, empty: Allocate) -> npt.NDArray[Any]:
        words = self.place.stop - self.place.start
        return empty((rows, words * WORD // np.dtype(self.stored).itemsize), self.wanted)


class BatchBuilder:
    """A batch without padding in the making, filled piece by piece, by any number of threads."""

    def __init__(
        self,
        position: npt.NDArray[np.int64],
        parts: dict[str, WordRange | None],
        tensors: list[tuple[WordRange, Codec]],
        empty: Allocate,
    ) -> None:
        rows, self._position = len(position), position
        self._named = {name: p.array(rows, empty) for name, p in parts.items() if p}
        self._tensors = [(part.array(rows, np.empty), codec) for part, codec in tensors]
        arrays = [*self._named.values(), *(array for array, _ in self._tensors)]
        every = [*filter(None, parts.values()), *(part for part, _ in tensors)]
        self._copies = list(zip(every, arrays, strict=True))

    def fill(self, first: int, words: Words) -> None:
        """Sets rows `first` .. from words, int32 [n, W]."""
        # Not by torch: its threads, one team for each thread that calls it, spin while they wait.
        for part, array in self._copies:
            np.copyto(array[first : first + len(words)], words[:, part.place].view(part.stored))

    def build(self) -> Batch:
        """The batch; all its rows must be set."""
        rows = len(self._position)
        absent = {"label": math.nan, "weight": 1.0}
        columns = {
            name: torch.from_numpy(self._named[name])[:, 0]
            if name in self._named
            else torch.from_numpy(np.full(rows, value, np.float32))
            for name, value in absent.items()
        }
        return Batch(
            dense=torch.from_numpy(self._named["dense"]),
            sparse=torch.from_numpy(self._named["sparse"]),
            label=columns["label"],
            weight=columns["weight"],
            row_id=torch.from_numpy(self._named["row_id"])[:, 0],
            is_row=torch.from_numpy(np.ones(rows, bool)),
            position=torch.from_numpy(self._position),
            tensors={
                name: tensor
                for array, codec in self._tensors
                for name, tensor in codec.tensors(array).items()
            },
        )
