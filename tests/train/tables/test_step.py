"""Sharded tables train as replicated ones do, at any number of ranks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from jobs.batch.batch import Batch
from jobs.models.build import Model, build_model
from jobs.settings.train import TrainSettings
from jobs.train.exchange.exchange import Alone, Exchange
from jobs.train.step.step import Step
from jobs.train.tables.table import ShardedTable, shard
from tests.builders.batches import SPEC, batch_of, in_ranks, pieces_of
from tests.builders.reference import BATCHES, settings_of, weights_of

BUCKETS = 5
OPTIMIZERS = ["sgd", "adagrad", "adam"]
# The second column is never touched.
UNTOUCHED = batch_of(40, seed=4)
UNTOUCHED.sparse[:, 1] = 0


def replicated(name: str, settings: TrainSettings, exchange: Exchange, dtype: torch.dtype) -> Step:
    torch.manual_seed(3)
    return Step(build_model(name, SPEC).to(dtype), settings, exchange)


def piece_of(
    name: str, settings: TrainSettings, rank: int, size: int, dtype: torch.dtype
) -> tuple[Model, list[ShardedTable]]:
    """A fresh model with the tables' pieces of one of `size` ranks."""
    torch.manual_seed(3)
    model = build_model(name, SPEC, with_tables=False).to(dtype)
    settings = settings.model_copy(update={"table_buckets": BUCKETS})
    tables = shard(model, settings, rank, size, torch.device("cpu"))
    for table in tables:
        table.fill(torch.initial_seed())
    return model, tables


def run(step: Step, batches: list[Batch]) -> Step:
    settings, exchange = step._settings, step.exchange
    count = settings.accumulate_steps
    for first in range(0, len(batches), count):
        group = batches[first : first + count]
        step.run(*(pieces_of(batch, exchange.size)[exchange.rank] for batch in group))
    return step


def whole(pieces: list[ShardedTable]) -> Tensor:
    """A table from the pieces of all ranks."""
    first = pieces[0]
    found = torch.empty(first.buckets.rows, first.dim, dtype=first.piece.dtype)
    for own in pieces:
        found[own.buckets.ids(own.rank, own.ranks)] = own.piece.detach()
    return found


def weights_of_all(steps: list[Step]) -> dict[str, Tensor]:
    """The weights of a model whose tables' pieces the ranks have; dense ones are equal on all."""
    dense = [weights_of(step.model) for step in steps]
    for name, weight in dense[0].items():
        assert all(torch.equal(own[name], weight) for own in dense), name
    tables = zip(*(step.sharded.tables for step in steps), strict=True)
    return dense[0] | {pieces[0].name: whole(list(pieces)) for pieces in tables}


def trained(
    name: str,
    settings: TrainSettings,
    size: int,
    batches: list[Batch],
    dtype: torch.dtype = torch.float64,
) -> dict[str, Tensor]:
    # Before the threads begin: they share torch's generator.
    made = [piece_of(name, settings, rank, size, dtype) for rank in range(size)]

    def work(exchange: Exchange) -> Step:
        model, tables = made[exchange.rank]
        return run(Step(model, settings, exchange, tables), batches)

    return weights_of_all([work(Alone())] if size == 1 else in_ranks(work, size))


def expected(name: str, settings: TrainSettings, batches: list[Batch]) -> dict[str, Tensor]:
    step = run(replicated(name, settings, Alone(), torch.float64), batches)
    return weights_of(step.model)


def assert_close(found: dict[str, Tensor], known: dict[str, Tensor], atol: float) -> None:
    assert found.keys() == known.keys()
    for name, weight in known.items():
        assert torch.allclose(found[name], weight, rtol=0, atol=atol), name


CHANGES: list[dict[str, Any]] = [
    {},
    {"accumulate_steps": 3},
    {"clip_norm": 0.05},
    {"table_sums": "batch"},
    {"table_sums": "batch", "accumulate_steps": 3},
]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("changes", CHANGES, ids=str)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_sharded_tables_train_as_replicated_ones(
    optimizer: str, changes: dict[str, Any], size: int
) -> None:
    settings = settings_of(optimizer=optimizer, **changes)
    batches = [*BATCHES, UNTOUCHED] * 2
    found = trained("wide_deep", settings, size, batches)
    assert_close(found, expected("wide_deep", settings, batches), 1e-10)


@pytest.mark.parametrize("name", ["mlp", "dlrm", "dcn_v2"])
def test_other_models_do_too(name: str) -> None:
    settings = settings_of()
    found = trained(name, settings, 3, BATCHES)
    assert_close(found, expected(name, settings, BATCHES), 1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("order", ["rank", "batch"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_after_many_steps_weights_are_the_same_to_1e_10(optimizer: str, order: str) -> None:
    settings = settings_of(optimizer=optimizer, table_sums=order)
    batches = [batch_of(40, seed) for seed in range(30)]
    known = expected("dlrm", settings, batches)
    for size in (1, 2, 3, 5):
        assert_close(trained("dlrm", settings, size, batches), known, 1e-10)


@pytest.mark.slow
def test_after_200_steps_they_still_are() -> None:
    settings = settings_of(optimizer="adam")
    batches = [batch_of(40, seed) for seed in range(200)]
    found = trained("dlrm", settings, 3, batches)
    assert_close(found, expected("dlrm", settings, batches), 1e-10)


def test_a_rank_without_rows_takes_part() -> None:
    settings = settings_of()
    batches = [batch_of(1, seed) for seed in range(5)]
    found = trained("mlp", settings, 3, batches)
    assert_close(found, expected("mlp", settings, batches), 1e-10)


def test_fresh_weights_are_the_same_bits_sharded_or_not() -> None:
    known = weights_of(replicated("dlrm", settings_of(), Alone(), torch.float32).model)
    for size in (1, 4):
        found = trained("dlrm", settings_of(), size, [], torch.float32)
        assert all(torch.equal(found[name], weight) for name, weight in known.items())
