"""Training steps slice by slice, in memory, at any number of ranks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from jobs.batch.batch import Batch
from jobs.models.build import Model, build_model
from jobs.settings.train import TrainSettings
from jobs.train.exchange.exchange import Alone, Exchange
from jobs.train.order.slices import Slices
from jobs.train.step.step import Step
from jobs.train.tables.table import ShardedTable
from tests.builders.batches import SPEC, in_ranks, padding
from tests.builders.reference import in_groups
from tests.builders.sharded import part_of, piece_of, weights_of_all

STREAMS, SLICES = 12, 6


def slices_of(exchange: Exchange, count: int = SLICES) -> Slices:
    return Slices(count, STREAMS, exchange.rank, exchange.size)


def piece_for(batch: Batch, slices: Slices) -> Batch:
    """The rows of a batch that a rank's stream would give it."""
    streams = torch.tensor(slices.owned_streams)
    found = batch[torch.isin(batch.position % slices.streams, streams).nonzero().squeeze(1)]
    return found if len(found) else padding(batch)


def step_maker(name: str, settings: TrainSettings, size: int) -> Callable[[Exchange], Step]:
    """Makes each rank's step in float32, of models that are made here: ranks may be threads."""
    made = [_made(name, settings, rank, size) for rank in range(size)]

    def make(exchange: Exchange) -> Step:
        model, tables = made[exchange.rank]
        return Step(
            model, settings, exchange, tables, slices_of(exchange, settings.gradient_slices)
        )

    return make


def _made(
    name: str, settings: TrainSettings, rank: int, size: int
) -> tuple[Model, list[ShardedTable]]:
    if settings.tables == "sharded":
        return piece_of(name, settings, rank, size, torch.float32)
    torch.manual_seed(3)
    return build_model(name, SPEC), []


def trained_in_slices(
    name: str, settings: TrainSettings, size: int, batches: Sequence[Batch]
) -> tuple[dict[str, Tensor], list[tuple[float, float]]]:
    """The weights after all steps, and each step's loss and weight."""
    make = step_maker(name, settings, size)

    def work(exchange: Exchange) -> tuple[Step, list[tuple[float, float]]]:
        step = make(exchange)
        own = [piece_for(batch, slices_of(exchange, settings.gradient_slices)) for batch in batches]
        groups = in_groups(own, settings.accumulate_steps)
        losses = []
        for group, upcoming in itertools.zip_longest(groups, groups[1:], fillvalue=[]):
            done = step.run(*group, upcoming=upcoming)
            losses.append((done.loss, done.weight))
        return step, losses

    found = [work(Alone())] if size == 1 else in_ranks(work, size)
    return weights_of_all([part_of(step) for step, _ in found]), found[-1][1]
