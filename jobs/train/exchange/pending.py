"""Collective operations that were started and not yet waited for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from jobs.train.exchange.packing import rounded, unpack_ids
from jobs.train.exchange.rows import TableRows, grouped

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Pending(Protocol[T_co]):
    """An operation of all ranks that runs in the background."""

    def result(self) -> T_co:
        """Waits until the operation has ended and returns its result. Called once."""


@dataclass(frozen=True)
class Finished(Pending[T]):
    """An operation that needed no other rank."""

    value: T

    def result(self) -> T:
        return self.value


@dataclass(frozen=True)
class PendingSums(Pending[list[Tensor]]):
    """The sums of several tensors over all ranks.

    Attributes:
        flat: of n elements, those of all tensors: [n] where the ranks' values are summed already
            (allreduce), [size * n] where they only lie one after the other (allgather).
        like: the tensors of this rank, which have the shapes of the results.
        allgather_ranks: the number of ranks where `flat` is an allgather; None for an allreduce.
    """

    flat: Pending[Tensor]
    like: Sequence[Tensor]
    allgather_ranks: int | None

    def result(self) -> list[Tensor]:
        total = self.flat.result()
        if self.allgather_ranks is not None:
            total = total.view(self.allgather_ranks, -1).sum(0, dtype=total.dtype)
        return shaped_as(self.like, total)


def shaped_as(like: Sequence[Tensor], flat: Tensor) -> list[Tensor]:
    """The parts of a tensor [n] that several tensors were laid into, in their shapes."""
    parts = torch.split(flat, [tensor.numel() for tensor in like])
    return [part.view(of.shape) for part, of in zip(parts, like, strict=True)]


@dataclass(frozen=True)
class PendingRows(Pending[TableRows]):
    """The sums over all ranks of the rows of an embedding table, by id.

    Attributes:
        ids: the allgather of what `pack_ids` made of each rank's ids, int32.
        values: the allgather of each rank's values, [.., E], one row for each id and then rows of
            zeros up to a `rounded` number of them.
        dtype: of the result's values.
    """

    ids: Pending[Tensor]
    values: Pending[Tensor]
    dtype: torch.dtype

    def result(self) -> TableRows:
        ids_of_ranks = list(unpack_ids(self.ids.result()))
        groups = grouped(torch.cat(ids_of_ranks), _value_rows(ids_of_ranks))
        return TableRows(groups.ids.long(), groups.sums(self.values.result()).to(self.dtype))


def _value_rows(ids_of_ranks: Sequence[Tensor]) -> Tensor:
    """For each id of each rank, in order, its row in the allgather of the values.

    Each rank's values begin at a `rounded` number of rows after those of the rank before.

    Returns:
        int64 [n], for the n ids of all ranks.
    """
    begin, rows = 0, []
    for ids in ids_of_ranks:
        rows.append(torch.arange(begin, begin + len(ids), device=ids.device))
        begin += rounded(len(ids))
    return torch.cat(rows)
