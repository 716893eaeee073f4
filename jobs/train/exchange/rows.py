"""Rows of embedding tables: those of one id found, and added up."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

# That one thread of a GPU adds up.
_PART_ROWS = 64


@dataclass(frozen=True)
class TableRows:
    """Some rows of a table, or gradients of them.

    Attributes:
        ids: int64 [n], below 2^31.
        values: [n, E].
    """

    ids: Tensor
    values: Tensor


@dataclass(frozen=True)
class Groups:
    """Which rows have the same id.

    Attributes:
        ids: int32 [r], each once, ascending.
        order: int64 [n], the rows' numbers by id; those of one id in the order in which they came.
        firsts: int64 [r], the place in `order` where each id begins.
    """

    ids: Tensor
    order: Tensor
    firsts: Tensor

    def sums(self, values: Tensor, length: int | None = None) -> Tensor:
        """Adds up the values of each id, always in the same order; sparse tensors' own `coalesce`
        took twice the time on the CPU.

        Args:
            values: one for each of the rows' numbers, [.., E].
            length: of the result, which ends with zeros; by default one row for each id.

        Returns:
            [r, E] or [length, E]. Short of bits, values are added up in float32.
        """
        values = values.to(torch.promote_types(values.dtype, torch.float32))
        length = len(self.ids) if length is None else length
        if not len(self.ids):
            return values.new_zeros(length, values.shape[1])
        order, firsts = self.order, self.firsts
        if values.is_cuda:
            # A GPU adds up the rows of an id one by one, which takes long where an id has many.
            begins = torch.arange(len(order), device=order.device) % _PART_ROWS == 0
            begins[firsts] = True
            parts = begins.nonzero().squeeze(1)
            values = F.embedding_bag(order, values, parts, mode="sum")
            order = torch.arange(len(parts), device=order.device)
            firsts = torch.searchsorted(parts, firsts)
        # The sum of no rows is zero.
        firsts = F.pad(firsts, (0, length - len(firsts)), value=len(order))
        return F.embedding_bag(order, values, firsts, mode="sum")


def grouped(ids: Tensor, numbers: Tensor | None = None) -> Groups:
    """Finds the rows of each id.

    Args:
        ids: [n], below 2^31.
        numbers: int64 [n], the rows' numbers; 0 to n - 1 by default.
    """
    # Stable, so that the order is the same on every rank.
    ordered, order = torch.sort(ids.to(torch.int32), stable=True)
    begins = torch.ones(len(ids), dtype=torch.bool, device=ids.device)
    torch.ne(ordered[1:], ordered[:-1], out=begins[1:])
    firsts = _where(begins)
    if numbers is not None:
        order = numbers.index_select(0, order)
    return Groups(ordered.index_select(0, firsts), order, firsts)


def coalesced(rows: TableRows) -> TableRows:
    """Each id once, ascending, with its values added up."""
    groups = grouped(rows.ids)
    return TableRows(groups.ids.long(), groups.sums(rows.values))


def _where(flags: Tensor) -> Tensor:
    """Where flags are set, ascending; torch's `nonzero` takes six times as long on the CPU."""
    if flags.is_cuda:
        return flags.nonzero().squeeze(1)
    return torch.from_numpy(np.flatnonzero(flags.numpy()))
