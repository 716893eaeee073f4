"""Embedding rows on the wire: those of all tables in two tensors, so that they share a round."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from jobs.train.step import Rows


def pack(pieces: Sequence[Rows]) -> tuple[Tensor, Tensor]:
    """The touched rows of all tables as one tensor of ids and one of values.

    A rank without rows sends the counts alone, so every rank takes part in every round.

    Returns:
        int32 [T + r]: the number of rows of each of the T tables, then the ids, table by table;
        and the values [sum of rows times dimensions], in the same order.
    """
    first = pieces[0]
    counts = torch.tensor([len(p.ids) for p in pieces], device=first.ids.device)
    ids = torch.cat([counts, *(piece.ids for piece in pieces)])
    return ids.to(torch.int32), torch.cat([piece.values.reshape(-1) for piece in pieces])


def unpack(ids: Tensor, values: Tensor, dims: Sequence[int]) -> list[Rows]:
    """What `pack` gave, of all ranks one after the other, as the rows of each table.

    Args:
        ids, values: packed pieces, laid end to end.
        dims: dimensions of each table.
    """
    found: list[tuple[list[Tensor], list[Tensor]]] = [([], []) for _ in dims]
    at_id = at_value = 0
    while at_id < len(ids):
        counts = ids[at_id : at_id + len(dims)].tolist()
        at_id += len(dims)
        for (of_ids, of_values), count, dim in zip(found, counts, dims, strict=True):
            of_ids.append(ids[at_id : at_id + count].long())
            of_values.append(values[at_value : at_value + count * dim].view(count, dim))
            at_id, at_value = at_id + count, at_value + count * dim
    return [Rows(torch.cat(of_ids), torch.cat(of_values)) for of_ids, of_values in found]
