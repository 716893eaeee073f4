"""Which rows of a table a step looks up: each once, in the order in their owners' pieces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jobs.models.tables.buckets import Buckets
from jobs.train.exchange.rows import Groups, grouped


@dataclass(frozen=True)
class Distinct:
    """The d distinct rows that a rank looks up in a table; padding is not one of them.

    Attributes:
        places: int32 [d], their indices in their owners' pieces, owner by owner.
        of_owner: how many of them each rank owns.
        indices: for each lookup, int64 in the shape of its ids: 1 + the number of the id's row, 0
            for padding.
        groups: the ids of all lookups by their row, first those of padding, whatever was looked up.
    """

    places: Tensor
    of_owner: list[int]
    indices: list[Tensor]
    groups: Groups

    def sums(self, gradients: Tensor) -> Tensor:
        """The sum of the gradients of each row's ids, [d, E].

        Args:
            gradients: [k, E], of each of the k ids of all lookups.
        """
        firsts = self.groups.firsts[1:]
        if not len(firsts):
            return gradients[:0]
        # Behind padding, of which one more was grouped than was looked up.
        order = self.groups.order[int(firsts[0]) :] - 1
        return Groups(self.groups.ids[1:], order, firsts - firsts[0]).sums(gradients)


def distinct_rows(buckets: Buckets, ranks: int, lookups: Sequence[Tensor]) -> Distinct:
    """Finds the distinct rows of lookups.

    Args:
        lookups: ids below `buckets.rows`, int64 of any shapes.

    Raises:
        ValueError: an id is outside the table.
    """
    ids = torch.cat([found.reshape(-1) for found in lookups])
    # Row 0 is padding. Its address is 0, so that it comes first.
    flat = torch.cat([ids.new_zeros(1), ids])
    if int(flat.max()) >= buckets.rows or int(flat.min()) < 0:
        raise ValueError(f"an id is outside its table of {buckets.rows} rows")
    groups = grouped(buckets.addresses(flat, ranks))
    ends = torch.cat([groups.firsts[1:], groups.firsts.new_tensor([len(flat)])])
    numbers = torch.arange(len(groups.ids), device=ids.device)
    of_sorted = torch.repeat_interleave(numbers, ends - groups.firsts, output_size=len(flat))
    indices = torch.empty_like(of_sorted).scatter_(0, groups.order, of_sorted)[1:]
    addresses, begins = groups.ids[1:], buckets.begins(ranks).to(ids.device, torch.int32)
    bounds = torch.searchsorted(addresses, begins)
    # Those of rank 0 begin behind padding.
    counts = bounds.diff()
    owner_begins = torch.repeat_interleave(begins[:-1], counts, output_size=len(addresses))
    shaped = torch.split(indices, [found.numel() for found in lookups])
    return Distinct(
        addresses - owner_begins,
        counts.tolist(),
        [own.view(found.shape) for own, found in zip(shaped, lookups, strict=True)],
        groups,
    )
