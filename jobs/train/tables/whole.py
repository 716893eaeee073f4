"""Whole tables from the pieces of all ranks, and pieces of whole tables.

A commit holds whole tables in each rank's host memory, so that any rank may be lost, and any number
of ranks goes on from it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from jobs.train.exchange.exchange import Exchange
from jobs.train.tables.table import ShardedTable


def gathered(table: ShardedTable, own: Tensor, exchange: Exchange) -> Tensor:
    """What all ranks have of a table, in order of its rows; all ranks must call this.

    Args:
        own: [rows owned, ...], of the table's piece or of its moments.

    Returns:
        [rows, ...], on the CPU.
    """
    whole = torch.empty(table.buckets.rows, *own.shape[1:], dtype=own.dtype)
    for rank in range(table.ranks):
        rows = table.buckets.piece_rows(rank, table.ranks)
        part = own.detach() if rank == table.rank else own.new_empty(rows, *own.shape[1:])
        if rows:
            exchange.broadcast([part], root=rank)
        whole[table.buckets.ids(rank, table.ranks)] = part.cpu()
    return whole


def own_rows(table: ShardedTable, whole: Tensor) -> Tensor:
    """The rows of a rank's piece, of a whole table or its moments [rows, ...]."""
    return whole.index_select(0, table.buckets.ids(table.rank, table.ranks))
