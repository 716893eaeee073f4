"""Rows of embedding tables, grouped by id and summed.

Shapes: n rows, r different ids among them, E values in a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

# Most rows of an id that one thread of a GPU sums.
_PART_ROWS = 64


@dataclass(frozen=True)
class TableRows:
    """Rows of an embedding table, or gradients of rows.

    Attributes:
        ids: int64 [n], the rows' numbers in the table, below 2^31.
        values: [n, E].
    """

    ids: Tensor
    values: Tensor


@dataclass(frozen=True)
class Groups:
    """Which rows have the same id.

    Attributes:
        ids: int32 [r], each id once, ascending.
        order: int64 [n], indices of rows, sorted by their ids; those of one id in given order.
        firsts: int64 [r], the index in `order` of the first row of each id.
    """

    ids: Tensor
    order: Tensor
    firsts: Tensor

    def sums(self, values: Tensor, length: int | None = None) -> Tensor:
        """Sums the values of each id, always in the same order.

        torch's `coalesce` of sparse tensors took twice the time on the CPU.

        Args:
            values: [m, E], the rows that `order` has indices of.
            length: rows of the result, at least r; r when None.

        Returns:
            [length, E]: the sum for each of `ids`, then zeros; float32 where values are shorter.
        """
        values = values.to(torch.promote_types(values.dtype, torch.float32))
        length = len(self.ids) if length is None else length
        if not len(self.ids):
            return values.new_zeros(length, values.shape[1])
        order, firsts = self.order, self.firsts
        if values.is_cuda:
            # A GPU sums the rows of an id one by one, which takes long where an id has many. So
            # parts of `order`, of at most _PART_ROWS rows of one id, are summed before.
            begins_part = torch.arange(len(order), device=order.device) % _PART_ROWS == 0
            begins_part[firsts] = True
            # int64 [p], the index in `order` at which each part begins.
            parts = begins_part.nonzero().squeeze(1)
            # [p, E], which take the place of `values`: `order` and `firsts` now index parts.
            values = F.embedding_bag(order, values, parts, mode="sum")
            order = torch.arange(len(parts), device=order.device)
            firsts = torch.searchsorted(parts, firsts)
        # int64 [length]: ids without rows, whose sums are zero, begin at the end of `order`.
        firsts = F.pad(firsts, (0, length - len(firsts)), value=len(order))
        return F.embedding_bag(order, values, firsts, mode="sum")


def grouped(ids: Tensor, indices: Tensor | None = None) -> Groups:
    """Groups rows by id.

    Args:
        ids: [n], the id of each row, below 2^31.
        indices: int64 [n], the index of each row, for `Groups.order`; 0 to n - 1 when None.
    """
    # Stable, so that the order is the same on every rank.
    ordered, order = torch.sort(ids.to(torch.int32), stable=True)
    # bool [n], whether a sorted id differs from the one before it.
    is_first = torch.ones(len(ids), dtype=torch.bool, device=ids.device)
    torch.ne(ordered[1:], ordered[:-1], out=is_first[1:])
    firsts = indices_of(is_first)
    if indices is not None:
        order = indices.index_select(0, order)
    return Groups(ordered.index_select(0, firsts), order, firsts)


def coalesced(rows: TableRows) -> TableRows:
    """Each id once, ascending, with the sum of its values."""
    groups = grouped(rows.ids)
    return TableRows(groups.ids.long(), groups.sums(rows.values))


def indices_of(flags: Tensor) -> Tensor:
    """Indices of the flags [n] that are set, int64, ascending.

    torch's `nonzero` takes six times as long as NumPy's on the CPU.
    """
    if flags.is_cuda:
        return flags.nonzero().squeeze(1)
    return torch.from_numpy(np.flatnonzero(flags.numpy()))
