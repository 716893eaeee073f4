"""Messages between ranks about rows of several tables, all tables in one alltoall.

Shapes: T tables, k rows of a table, E values in a row, n ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jobs.train.exchange.exchange import Exchange
from jobs.train.exchange.packing import in_dtype
from jobs.train.exchange.pending import Pending


@dataclass(frozen=True)
class SentRows:
    """Rows of a table that are sent to ranks, or came from them.

    Attributes:
        values: [k, ...], in order of the ranks.
        of_rank: how many of them are for, or came from, each rank.
    """

    values: Tensor
    of_rank: list[int]


@dataclass(frozen=True)
class PendingTables(Pending[list[SentRows]]):
    """For each table the rows that all ranks send to this one.

    Attributes:
        messages: of all tables, from each rank.
        counts: for each table, the rows that come from each rank.
        width: for each table, values of a row.
    """

    messages: Pending[list[Tensor]]
    counts: Sequence[list[int]]
    widths: Sequence[int]

    def result(self) -> list[SentRows]:
        parts: list[list[Tensor]] = [[] for _ in self.counts]
        for rank, message in enumerate(self.messages.result()):
            sizes = [of[rank] * width for of, width in zip(self.counts, self.widths, strict=True)]
            for own, part in zip(parts, torch.split(message, sizes), strict=True):
                own.append(part)
        return [
            SentRows(torch.cat(own).view(-1, width), of)
            for own, width, of in zip(parts, self.widths, self.counts, strict=True)
        ]


def start_rows(
    exchange: Exchange,
    name: str,
    rows: Sequence[SentRows],
    counts: Sequence[list[int]],
    dtype: torch.dtype | None = None,
) -> PendingTables:
    """Starts to send rows of all tables.

    Args:
        name: no other operation that is pending has it.
        rows: for each table, [k, E]; all of one dtype.
        counts: for each table, the rows that come from each rank.
        dtype: in which they are sent; their own when None.
    """
    messages = [in_dtype(message, dtype) for message in _messages(rows)]
    widths = [own.values.shape[1] if own.values.dim() > 1 else 1 for own in rows]
    return PendingTables(exchange.start_alltoall(name, messages), counts, widths)


@dataclass(frozen=True)
class PendingPlaces(Pending[list[SentRows]]):
    """For each table the places in this rank's piece that all ranks tell it, int64 [k].

    Attributes:
        messages: of all tables, from each rank: how many places of each table, then these.
        tables: how many there are.
    """

    messages: Pending[list[Tensor]]
    tables: int

    def result(self) -> list[SentRows]:
        parts: list[list[Tensor]] = [[] for _ in range(self.tables)]
        for message in self.messages.result():
            lengths = message[: self.tables].tolist()
            for own, part in zip(parts, torch.split(message[self.tables :], lengths), strict=True):
                own.append(part)
        return [SentRows(torch.cat(own).long(), [len(part) for part in own]) for own in parts]


def start_places(exchange: Exchange, name: str, rows: Sequence[SentRows]) -> PendingPlaces:
    """Starts to tell ranks places in their pieces of all tables.

    Args:
        name: no other operation that is pending has it.
        rows: for each table, int32 [k].
    """
    counts = torch.tensor([own.of_rank for own in rows], dtype=torch.int32).t()
    messages = [
        torch.cat([of.to(message.device), message])
        for of, message in zip(counts, _messages(rows), strict=True)
    ]
    return PendingPlaces(exchange.start_alltoall(name, messages), len(rows))


def _messages(rows: Sequence[SentRows]) -> list[Tensor]:
    """For each rank, the rows of all tables for it, as [values]."""
    parts = [torch.split(own.values, own.of_rank) for own in rows]
    return [torch.cat([part.reshape(-1) for part in of]) for of in zip(*parts, strict=True)]
