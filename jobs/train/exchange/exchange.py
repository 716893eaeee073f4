"""How ranks add up what a step found: sums, and gradients of embedding tables' rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from jobs.base.errors import MillstreamError
from jobs.train.exchange.packing import pack_ids, rounded, shortened, unpack_ids
from jobs.train.exchange.rows import TableRows, coalesced, grouped

# Sums that are no larger are sent to all ranks, in two thirds of the time of an allreduce.
_SMALL_BYTES = 1 << 20

# Wait for what was started, and return it.
Pending = Callable[[], Tensor]
PendingRows = Callable[[], TableRows]
PendingSums = Callable[[], list[Tensor]]


class PeersSilent(MillstreamError):
    """An exchange did not end within `train.stall_s`: another rank is missing."""


class Exchange(Protocol):
    """How ranks add up. What is started by several ranks under one name belongs together.

    Attributes:
        rank, size: this rank, and how many there are.
        bytes_sent: by this rank, so far.
        waited_s: seconds in which this rank waited for the others, so far.
    """

    rank: int
    size: int
    bytes_sent: int
    waited_s: float

    def start_sums(self, tensors: Sequence[Tensor]) -> PendingSums:
        """Starts adding up tensors.

        Args:
            tensors: at least one, all of one dtype; the same shapes on all ranks.

        Returns:
            What waits for the sums. They have the same bits on all ranks.
        """

    def start_rows(self, name: str, rows: TableRows, wire: torch.dtype | None) -> PendingRows:
        """Starts adding up the rows of a table by id.

        Args:
            name: of the table.
            rows: of this rank, any number.
            wire: a shorter dtype, in which each rank's sums travel.

        Returns:
            What waits for the rows of all ranks: each id once, ascending, with the same bits on
            all ranks.
        """

    def start_equal(self, tensors: Iterable[Tensor]) -> None:
        """Overwrites the tensors with those of rank 0."""


class Alone:
    """The exchange of a single rank."""

    rank = 0
    size = 1
    bytes_sent = 0
    waited_s = 0.0

    def start_sums(self, tensors: Sequence[Tensor]) -> PendingSums:
        return lambda: list(tensors)

    def start_rows(self, name: str, rows: TableRows, wire: torch.dtype | None) -> PendingRows:
        own = coalesced(rows)
        values = shortened(own.values, wire).to(rows.values.dtype)
        return lambda: TableRows(own.ids, values)

    def start_equal(self, tensors: Iterable[Tensor]) -> None:
        pass


class SeveralRanks(ABC):
    """The exchange of several ranks, from what a transport can do."""

    rank: int
    size: int

    @abstractmethod
    def start_sum(self, name: str, tensor: Tensor) -> Pending:
        """Adds up a tensor [n] over all ranks; may overwrite it."""

    @abstractmethod
    def start_gather(self, name: str, piece: Tensor) -> Pending:
        """Lays the pieces of all ranks end to end, in order of the ranks.

        Args:
            name: no other piece under way has it.
            piece: their lengths may differ, no other dimension.
        """

    def start_sums(self, tensors: Sequence[Tensor]) -> PendingSums:
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        name = f"sums of {len(flat)}"
        small = flat.nbytes * (self.size - 1) <= _SMALL_BYTES
        started = self.start_gather(name, flat) if small else self.start_sum(name, flat)

        def sums() -> list[Tensor]:
            total = started()
            if small:
                total = total.view(self.size, -1).sum(0, dtype=flat.dtype)
            parts = torch.split(total, [tensor.numel() for tensor in tensors])
            return [part.view(like.shape) for part, like in zip(parts, tensors, strict=True)]

        return sums

    def start_rows(self, name: str, rows: TableRows, wire: torch.dtype | None) -> PendingRows:
        own = grouped(rows.ids)
        # Ids go ahead, so that they can be merged while values travel.
        ids = self.start_gather(f"ids of {name}", pack_ids(own.ids))
        sums = own.sums(rows.values, rounded(len(own.ids)))
        values = self.start_gather(f"values of {name}", shortened(sums, wire))

        def merged() -> TableRows:
            received = list(unpack_ids(ids()))
            groups = grouped(torch.cat(received), _places(received))
            return TableRows(groups.ids.long(), groups.sums(values()).to(rows.values.dtype))

        return merged


def _places(ids: Sequence[Tensor]) -> Tensor:
    """Where the values of each rank's ids are among those of all ranks, int64 [ids]."""
    begin, found = 0, []
    for own in ids:
        found.append(torch.arange(begin, begin + len(own), device=own.device))
        begin += rounded(len(own))
    return torch.cat(found)
