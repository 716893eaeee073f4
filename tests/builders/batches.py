"""Batches in memory, pieces of them, and ranks as threads of this process."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from jobs.train.batch import NO_POSITION, Batch
from jobs.train.models import ModelSpec
from jobs.train.step import Exchange, Rows
from jobs.train.wire import pack, unpack

R = TypeVar("R")

SPEC = ModelSpec(
    dataset="made",
    declaration="d",
    state="s",
    task="binary",
    means=(0.5, -1.0, 3.0),
    stds=(2.0, 1.0, 0.5),
    table_rows=(7, 50, 5),
    embedding_dims=(2, 4, 3),
    tensor_shapes={},
    hidden=(8,),
    dropout=0.0,
)


def batch_of(rows: int, seed: int, first_row: int = 0, spec: ModelSpec = SPEC) -> Batch:
    """Made-up rows: missing numbers, ids of all kinds, uneven weights, labels to be learnt."""
    g = torch.Generator().manual_seed(seed)
    dense = torch.randn(rows, spec.num_dense, generator=g)
    dense[torch.rand(dense.shape, generator=g) < 0.1] = torch.nan
    sparse = torch.stack(
        [torch.randint(0, size, (rows,), generator=g) for size in spec.table_rows], dim=1
    )
    chance = torch.sigmoid(dense[:, 0].nan_to_num() * 2 + (sparse[:, 1] % 3 - 1).float())
    position = torch.arange(first_row, first_row + rows)
    return Batch(
        dense=dense,
        sparse=sparse,
        label=(torch.rand(rows, generator=g) < chance).float(),
        weight=torch.rand(rows, generator=g) * 3 + 0.1,
        row_id=position * 1_000_003 - 5,
        is_row=torch.ones(rows, dtype=torch.bool),
        position=position,
        tensors={},
    )


def padding(like: Batch) -> Batch:
    """One padding row, as a stream gives it."""
    zeros = like[:1]._mapped(torch.zeros_like)
    return replace(zeros, position=torch.full((1,), NO_POSITION))


def pieces_of(batch: Batch, size: int) -> list[Batch]:
    """The batch cut into uneven pieces: all but the last rank take one part in `size + 1`."""
    part = len(batch) // (size + 1)
    cuts = [part * rank for rank in range(size)] + [len(batch)]
    pieces = [batch[first:end] for first, end in itertools.pairwise(cuts)]
    return [piece if len(piece) else padding(batch) for piece in pieces]


class Memory:
    """A stream's interface over batches in memory, the same in every epoch."""

    def __init__(self, batches: Sequence[Batch], rank: int = 0, size: int = 1) -> None:
        self._pieces = [pieces_of(batch, size)[rank] for batch in batches]
        self.rows = sum(len(batch) for batch in batches)

    def epoch(self, epoch: int, start_row: int = 0) -> Iterator[Batch]:
        assert start_row == 0
        yield from self._pieces


class _Table:
    """Where the threads of `in_ranks` lay what they exchange."""

    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size, timeout=60)
        self.sent: list[tuple[list[Tensor], Tensor | None]] = [([], None)] * size


class InProcess:
    """An exchange between threads, with the packing that goes over the wire."""

    bytes_sent = 0

    def __init__(self, rank: int, table: _Table) -> None:
        self.rank, self.size, self._table = rank, len(table.sent), table

    def merge(
        self, tensors: Sequence[Tensor], tables: Sequence[Rows] = ()
    ) -> tuple[list[Tensor], list[Rows]]:
        sent = self._exchanged(list(tensors), pack(tables) if tables else None)
        sums = [
            sum(parts, torch.zeros_like(parts[0]))
            for parts in zip(*(s for s, _ in sent), strict=True)
        ]
        if not tables:
            return sums, []
        return sums, unpack(torch.cat([p for _, p in sent if p is not None]), tables)

    def start_equal(self, tensors: Iterable[Tensor]) -> None:
        own = list(tensors)
        first = self._exchanged([tensor.clone() for tensor in own], None)[0][0]
        for tensor, theirs in zip(own, first, strict=True):
            tensor.copy_(theirs)

    def _exchanged(
        self, tensors: list[Tensor], packed: Tensor | None
    ) -> list[tuple[list[Tensor], Tensor | None]]:
        self._table.sent[self.rank] = (tensors, packed)
        self._table.barrier.wait()
        sent = list(self._table.sent)
        self._table.barrier.wait()
        return sent


def in_ranks(work: Callable[[Exchange], R], size: int) -> list[R]:
    """Runs `work` on each of `size` ranks, each a thread; results in order of the ranks."""
    table = _Table(size)
    results: dict[int, R] = {}
    failures: list[BaseException] = []

    def run(rank: int) -> None:
        try:
            results[rank] = work(InProcess(rank, table))
        except threading.BrokenBarrierError:
            pass
        except BaseException as error:
            failures.append(error)
            table.barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    if failures:
        raise failures[0]
    return [results[rank] for rank in range(size)]
