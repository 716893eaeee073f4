"""Batches in memory, pieces of them, and ranks as threads of this process."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from jobs.batch.batch import Batch
from jobs.batch.layout import NO_POSITION
from jobs.models.spec import ModelSpec
from jobs.train.exchange.exchange import Exchange, SeveralRanks
from jobs.train.exchange.pending import Pending

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


class _Desk:
    """Where the threads of `in_ranks` lay what they exchange, by name and number of use."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._sent: dict[tuple[str, int], dict[int, Tensor]] = {}
        self._changed = threading.Condition()
        self.failed = False

    def lay(self, key: tuple[str, int], rank: int, tensor: Tensor) -> None:
        with self._changed:
            self._sent.setdefault(key, {})[rank] = tensor
            self._changed.notify_all()

    def take(self, key: tuple[str, int]) -> list[Tensor]:
        """What all ranks laid there, once they have."""
        with self._changed:
            done = self._changed.wait_for(
                lambda: self.failed or len(self._sent[key]) == self.size, timeout=60
            )
            if self.failed or not done:
                raise PeerFailed(f"{key} did not come from all ranks")
            return [self._sent[key][rank] for rank in range(self.size)]

    def fail(self) -> None:
        with self._changed:
            self.failed = True
            self._changed.notify_all()


class PeerFailed(Exception):
    """Another rank raised, or never sent what this one waits for."""


class InProcess(SeveralRanks):
    """An exchange between threads."""

    bytes_sent = 0
    waited_s = 0.0

    def __init__(self, rank: int, desk: _Desk) -> None:
        self.rank, self.size, self._desk = rank, desk.size, desk
        self._uses: Counter[str] = Counter()

    def start_allreduce(self, name: str, tensor: Tensor) -> Pending[Tensor]:
        return Laid(self._desk, self._lay(name, tensor), _total)

    def start_allgather(self, name: str, tensor: Tensor) -> Pending[Tensor]:
        return Laid(self._desk, self._lay(name, tensor), torch.cat)

    def start_alltoall(self, name: str, pieces: Sequence[Tensor]) -> Pending[list[Tensor]]:
        lengths = self.start_allgather(name, torch.tensor([[len(piece) for piece in pieces]]))
        everything = self.start_allgather(name, torch.cat(list(pieces)))
        return Addressed(lengths, everything, self.rank)

    def broadcast(self, tensors: Iterable[Tensor], root: int = 0) -> None:
        for tensor in tensors:
            tensor.copy_(self._desk.take(self._lay("broadcast", tensor.clone()))[root])

    def _lay(self, name: str, tensor: Tensor) -> tuple[str, int]:
        self._uses[name] += 1
        key = (name, self._uses[name])
        self._desk.lay(key, self.rank, tensor)
        return key


@dataclass(frozen=True)
class Addressed(Pending[list[Tensor]]):
    """Those parts of what lies on the desk that are for one rank.

    Attributes:
        lengths: [ranks, ranks], of the part that each rank sends to each.
        everything: all parts, one after the other.
    """

    lengths: Pending[Tensor]
    everything: Pending[Tensor]
    rank: int

    def result(self) -> list[Tensor]:
        lengths = self.lengths.result()
        parts = torch.split(self.everything.result(), lengths.flatten().tolist())
        return list(parts[self.rank :: len(lengths)])


@dataclass(frozen=True)
class Laid(Pending[Tensor]):
    """What lies on the desk for all ranks, made one tensor by `combine`."""

    desk: _Desk
    key: tuple[str, int]
    combine: Callable[[list[Tensor]], Tensor]

    def result(self) -> Tensor:
        return self.combine(self.desk.take(self.key))


def _total(tensors: list[Tensor]) -> Tensor:
    return sum(tensors, torch.zeros_like(tensors[0]))


def in_ranks(work: Callable[[Exchange], R], size: int) -> list[R]:
    """Runs `work` on each of `size` ranks, each a thread; results in order of the ranks."""
    desk = _Desk(size)
    results: dict[int, R] = {}
    failures: list[BaseException] = []
    unheard: list[BaseException] = []

    def run(rank: int) -> None:
        try:
            results[rank] = work(InProcess(rank, desk))
        except PeerFailed as error:
            unheard.append(error)
        except BaseException as error:
            failures.append(error)
            desk.fail()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    for error in failures + unheard:
        raise error
    return [results[rank] for rank in range(size)]
