"""How ranks add up the results of a step: dense gradients, and rows of embedding tables."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from jobs.base.errors import MillstreamError
from jobs.train.exchange.packing import in_dtype, pack_ids, rounded
from jobs.train.exchange.pending import Finished, Pending, PendingRows, PendingSums
from jobs.train.exchange.rows import TableRows, coalesced, grouped

# Up to so many bytes, an allgather and a local sum take two thirds of the time of an allreduce.
_ALLGATHER_BYTES = 1 << 20


class PeersSilent(MillstreamError):
    """An exchange did not end within `train.stall_s`: another rank is missing."""


class Exchange(Protocol):
    """The collective operations of training.

    All ranks must start the same operations in the same order: each is matched by its name with
    those that the other ranks started.

    Attributes:
        rank, size: this rank's number, and the number of ranks.
        bytes_sent: bytes that this rank has sent so far.
        waited_s: seconds that this rank has waited for others so far.
    """

    rank: int
    size: int
    bytes_sent: int
    waited_s: float

    def start_sums(self, tensors: Sequence[Tensor]) -> Pending[list[Tensor]]:
        """Starts adding up tensors over all ranks.

        Args:
            tensors: at least one, all of one dtype; the same shapes on all ranks.

        Returns:
            The pending sums, in the shapes of `tensors`. Their bits are the same on all ranks.
        """

    def start_allgather(self, name: str, tensor: Tensor) -> Pending[Tensor]:
        """Starts to concatenate the tensors of all ranks, in order of the ranks.

        Args:
            name: no other operation that is pending has it.
            tensor: [k, ...], where k may differ by rank, and the other dimensions may not.
        """

    def start_rows(
        self, name: str, parts: Sequence[TableRows], dtype: torch.dtype | None
    ) -> Pending[TableRows]:
        """Starts adding up rows of an embedding table over all ranks, by id.

        Args:
            name: the table's name.
            parts: this rank's rows, any number of them; an id may occur several times. Each part
                is added up by itself, then the parts' sums in their order, rank by rank.
            dtype: the shorter dtype in which the parts' sums are sent; their own when None.

        Returns:
            The pending rows of all ranks: each id once, ascending, with the sum of its values in
            the dtype of the parts. Their bits are the same on all ranks.
        """

    def start_alltoall(self, name: str, pieces: Sequence[Tensor]) -> Pending[list[Tensor]]:
        """Starts to send each rank a piece of its own.

        Args:
            name: no other operation that is pending has it.
            pieces: for each rank, [k], where k may differ and be 0; all of one dtype, which is the
                same on all ranks.

        Returns:
            The pending pieces that the ranks send to this one, in order of the ranks.
        """

    def broadcast(self, tensors: Iterable[Tensor], root: int = 0) -> None:
        """Overwrites the tensors with those of one rank."""


class Alone:
    """The exchange of a single rank: nothing is sent, and nothing is waited for."""

    rank = 0
    size = 1
    bytes_sent = 0
    waited_s = 0.0

    def start_sums(self, tensors: Sequence[Tensor]) -> Pending[list[Tensor]]:
        return Finished(list(tensors))

    def start_allgather(self, name: str, tensor: Tensor) -> Pending[Tensor]:
        return Finished(tensor)

    def start_rows(
        self, name: str, parts: Sequence[TableRows], dtype: torch.dtype | None
    ) -> Pending[TableRows]:
        sums = [coalesced(part) for part in parts]
        # Rounded as several ranks would, so that their number changes the results little.
        values = [in_dtype(own.values, dtype).to(parts[0].values.dtype) for own in sums]
        if len(sums) == 1:
            return Finished(TableRows(sums[0].ids, values[0]))
        ids = torch.cat([own.ids for own in sums])
        return Finished(coalesced(TableRows(ids, torch.cat(values))))

    def start_alltoall(self, name: str, pieces: Sequence[Tensor]) -> Pending[list[Tensor]]:
        return Finished(list(pieces))

    def broadcast(self, tensors: Iterable[Tensor], root: int = 0) -> None:
        pass


class SeveralRanks(ABC):
    """The exchange of several ranks, made of an allreduce and an allgather."""

    rank: int
    size: int

    @abstractmethod
    def start_allreduce(self, name: str, tensor: Tensor) -> Pending[Tensor]:
        """Starts the sum of a tensor [n] over all ranks; may overwrite the tensor.

        Args:
            name: no other tensor that is pending has it.
        """

    @abstractmethod
    def start_allgather(self, name: str, tensor: Tensor) -> Pending[Tensor]:
        """See `Exchange`."""

    def start_sums(self, tensors: Sequence[Tensor]) -> Pending[list[Tensor]]:
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        name = f"sums of {len(flat)}"
        if flat.nbytes * (self.size - 1) <= _ALLGATHER_BYTES:
            return PendingSums(self.start_allgather(name, flat), tensors, self.size)
        return PendingSums(self.start_allreduce(name, flat), tensors, None)

    def start_rows(
        self, name: str, parts: Sequence[TableRows], dtype: torch.dtype | None
    ) -> Pending[TableRows]:
        groups = [grouped(part.ids) for part in parts]
        # Ids are sent first, so that they can be merged while the values are on their way.
        packed = torch.cat([pack_ids(own.ids) for own in groups])
        ids = self.start_allgather(f"ids of {name}", packed)
        sums = [
            own.sums(part.values, rounded(len(own.ids)))
            for own, part in zip(groups, parts, strict=True)
        ]
        values = self.start_allgather(f"values of {name}", in_dtype(torch.cat(sums), dtype))
        return PendingRows(ids, values, parts[0].values.dtype)
