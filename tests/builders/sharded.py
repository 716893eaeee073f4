"""Training steps with sharded tables, in memory, and the whole tables put together again."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from jobs.batch.batch import Batch
from jobs.models.build import Model, build_model
from jobs.models.spec import ModelSpec
from jobs.settings.train import TrainSettings
from jobs.train.exchange.exchange import Exchange
from jobs.train.step.step import Step
from jobs.train.tables.table import ShardedTable, shard
from tests.builders.batches import SPEC, pieces_of
from tests.builders.reference import in_groups, weights_of

BUCKETS = 5
Part = tuple[dict[str, Tensor], list[ShardedTable]]


def untouched_by_rank_0(batches: Sequence[Batch], size: int) -> list[Batch]:
    """The batches, in which rank 0 of `size` never looks up a value of the second field."""
    found = []
    for batch in batches:
        sparse = batch.sparse.clone()
        sparse[: len(batch) // (size + 1), 1] = 0
        found.append(replace(batch, sparse=sparse))
    return found


def replicated(
    name: str,
    settings: TrainSettings,
    exchange: Exchange,
    dtype: torch.dtype,
    spec: ModelSpec = SPEC,
) -> Step:
    torch.manual_seed(3)
    return Step(build_model(name, spec).to(dtype), settings, exchange)


def piece_of(
    name: str,
    settings: TrainSettings,
    rank: int,
    size: int,
    dtype: torch.dtype,
    spec: ModelSpec = SPEC,
    tables: str = "sharded",
) -> tuple[Model, list[ShardedTable]]:
    """A fresh model with the pieces that one of `size` ranks has of its sharded tables.

    Args:
        tables: `train.tables`.
    """
    torch.manual_seed(3)
    model = build_model(name, spec, with_tables=False).to(dtype)
    settings = settings.model_copy(
        update={"table_buckets": BUCKETS, "tables": tables, "seed": torch.initial_seed()}
    )
    pieces = shard(model, settings, rank, size, torch.device("cpu"))
    for piece in pieces:
        piece.fill(settings.seed)
    return model.to(dtype), pieces


def run(step: Step, batches: list[Batch]) -> Step:
    """Trains this rank's pieces of the batches; each step knows those of the next one."""
    exchange = step.exchange
    own = [pieces_of(batch, exchange.size)[exchange.rank] for batch in batches]
    groups = in_groups(own, step._settings.accumulate_steps)
    for group, upcoming in itertools.zip_longest(groups, groups[1:], fillvalue=[]):
        step.run(*group, upcoming=upcoming)
    return step


def whole(pieces: list[ShardedTable]) -> Tensor:
    """A table from the pieces of all ranks."""
    first = pieces[0]
    found = torch.empty(first.buckets.rows, first.dim, dtype=first.piece.dtype)
    for own in pieces:
        found[own.buckets.ids(own.rank, own.ranks)] = own.piece.detach()
    return found


def part_of(step: Step) -> Part:
    """What a rank has of the weights: those of the dense layers, and its pieces."""
    return weights_of(step.model), step.sharded.tables


def weights_of_all(parts: Sequence[Part]) -> dict[str, Tensor]:
    """The weights of a model, from what all ranks have; dense ones are equal on all."""
    dense = parts[0][0]
    for name, weight in dense.items():
        assert all(torch.equal(own[name], weight) for own, _ in parts), name
    tables = zip(*(pieces for _, pieces in parts), strict=True)
    return dense | {pieces[0].name: whole(list(pieces)) for pieces in tables}
