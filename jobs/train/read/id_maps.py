"""A stream whose ids become those of the model's state, where the examples know more values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from jobs.batch.batch import Batch
from jobs.train.read.stream import Stream

# Field -> int32 [ids of the examples]: the id that the model's state gives for each.


IdMaps = Mapping[str, npt.NDArray[np.int32]]


class MappedStream:
    """A stream whose ids become those of the model's state.

    Args:
        maps: field -> id by id.
        columns: fields of `sparse`; the others are lists.
    """

    def __init__(
        self, stream: Stream, maps: Mapping[str, torch.Tensor], columns: Sequence[str]
    ) -> None:
        self._stream = stream
        self._maps, self._columns = maps, list(columns)

    @property
    def rows(self) -> int:
        return self._stream.rows

    @property
    def note(self) -> str:
        return self._stream.note

    @property
    def fingerprint(self) -> dict[str, Any]:
        return self._stream.fingerprint

    def epoch(self, epoch: int, start_row: int = 0) -> Iterator[Batch]:
        for batch in self._stream.epoch(epoch, start_row):
            yield self._mapped(batch) if self._maps else batch

    def _mapped(self, batch: Batch) -> Batch:
        sparse = batch.sparse.clone()
        tensors = dict(batch.tensors)
        for name, ids in self._maps.items():
            if name in self._columns:
                column = self._columns.index(name)
                sparse[:, column] = ids[sparse[:, column]]
            else:
                tensors[name] = ids[tensors[name]]
        return replace(batch, sparse=sparse, tensors=tensors)
