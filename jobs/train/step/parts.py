"""A rank's pieces of global batches, cut into the slices whose gradients are computed apart."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from jobs.batch.batch import Batch
from jobs.train.order.slices import Slices


def cut(batch: Batch, slices: Slices | None) -> list[Batch]:
    """A rank's piece of a global batch, cut into its slices; whole where there are none.

    Args:
        batch: in order of the rows' positions, or padding alone.

    Returns:
        For each of the rank's slices its rows, in that order; some may have none. Their memory is
        their own: how it is aligned must not follow from the other slices.
    """
    if slices is None:
        return [batch]
    if not batch.rows:
        return [batch] * len(slices.owned)
    numbers = batch.position % slices.streams // slices.streams_of_slice
    return [batch[torch.nonzero(numbers == number).squeeze(1)] for number in slices.owned]


class Cutter:
    """Cuts batches, and knows those that it cut the time before.

    So the parts of batches that were announced are the same objects when their step comes.
    """

    def __init__(self, slices: Slices | None) -> None:
        self._slices = slices
        # By the batch's id, which is its own as long as it is kept here.
        self._known: dict[int, tuple[Batch, list[Batch]]] = {}

    def parts(self, *groups: Sequence[Batch]) -> list[list[list[Batch]]]:
        """For each group of batches, for each of the rank's slices, its rows of each batch."""
        self._known = {
            id(batch): self._known.get(id(batch)) or (batch, cut(batch, self._slices))
            for group in groups
            for batch in group
        }
        return [
            [list(part) for part in zip(*(self._known[id(b)][1] for b in group), strict=True)]
            for group in groups
        ]
