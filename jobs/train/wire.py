"""Embedding rows on the wire: those of all tables in one tensor, so that they take one round."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from jobs.train.step import Rows

# Every part of a piece begins where tensors of any dtype can.
_ALIGNED = 8


def pack(pieces: Sequence[Rows]) -> Tensor:
    """The touched rows of all tables as bytes.

    int32 the number of rows of each table, then the ids, table by table; then each table's values.
    A rank without rows sends the counts alone, so every rank takes part in every round. The end is
    filled up to one of few lengths: Horovod negotiates anew what changes its shape, which took a
    sixth of the round.

    Returns:
        uint8 [bytes], a multiple of 8.
    """
    device = pieces[0].ids.device
    counts = torch.tensor([len(p.ids) for p in pieces], device=device)
    head = torch.cat([counts, *(p.ids for p in pieces)]).to(torch.int32)
    parts = [head, *(p.values.contiguous() for p in pieces)]
    length, places = _lengths([part.nbytes for part in parts])
    packed = torch.empty(length, dtype=torch.uint8, device=device)
    for part, place in zip(parts, places, strict=True):
        packed[place : place + part.nbytes] = part.view(-1).view(torch.uint8)
    return packed


def unpack(packed: Tensor, like: Sequence[Rows]) -> list[Rows]:
    """What `pack` gave, of all ranks one after the other, as the rows of each table.

    Args:
        packed: pieces, laid end to end.
        like: a piece of each table, for dtypes and dimensions.
    """
    found: list[tuple[list[Tensor], list[Tensor]]] = [([], []) for _ in like]
    while len(packed):
        counts = packed[: 4 * len(like)].view(torch.int32).tolist()
        sizes = [
            count * one.values.shape[1] * one.values.element_size()
            for count, one in zip(counts, like, strict=True)
        ]
        length, places = _lengths([4 * (len(like) + sum(counts)), *sizes])
        head = packed[4 * len(like) : 4 * (len(like) + sum(counts))]
        ids = torch.split(head.view(torch.int32), counts)
        for one, of_table, some, place, size in zip(
            like, found, ids, places[1:], sizes, strict=True
        ):
            values = packed[place : place + size].view(one.values.dtype)
            of_table[0].append(some)
            of_table[1].append(values.view(-1, one.values.shape[1]))
        packed = packed[length:]
    return [Rows(torch.cat(ids), torch.cat(values)) for ids, values in found]


def _lengths(sizes: Sequence[int]) -> tuple[int, list[int]]:
    """Bytes of a whole piece with parts of such sizes, and where each part begins."""
    places = list(_places(sizes))
    end = places[-1] + sizes[-1]
    # Steps of a sixteenth to a thirty-second of it.
    step = max(_ALIGNED, 1 << max(0, end.bit_length() - 5))
    return -(-end // step) * step, places


def _places(sizes: Sequence[int]) -> Iterator[int]:
    at = 0
    for size in sizes:
        yield at
        at += -(-size // _ALIGNED) * _ALIGNED
