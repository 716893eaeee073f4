"""Sharded tables train as replicated ones do, at any number of ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from jobs.base.errors import ConfigError
from jobs.batch.batch import Batch
from jobs.models.build import embedding_tables, row_losses
from jobs.settings.train import TrainSettings
from jobs.train.exchange.exchange import Alone, Exchange
from jobs.train.exchange.pending import Pending
from jobs.train.step.step import Step
from schemas.field import PADDING_ID
from tests.builders.batches import batch_of, in_ranks, pieces_of
from tests.builders.reference import BATCHES, settings_of, weights_of
from tests.builders.sharded import (
    Part,
    part_of,
    piece_of,
    replicated,
    run,
    untouched_by_rank_0,
    weights_of_all,
)

OPTIMIZERS = ["sgd", "adagrad", "adam"]
# The second column is never touched.
UNTOUCHED = batch_of(40, seed=4)
UNTOUCHED.sparse[:, 1] = 0


def trained(
    name: str,
    settings: TrainSettings,
    size: int,
    batches: list[Batch],
    dtype: torch.dtype = torch.float64,
) -> dict[str, Tensor]:
    # Before the threads begin: they share torch's generator.
    made = [piece_of(name, settings, rank, size, dtype) for rank in range(size)]

    def work(exchange: Exchange) -> Part:
        model, tables = made[exchange.rank]
        return part_of(run(Step(model, settings, exchange, tables), batches))

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


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("order", ["rank", "batch"])
def test_a_rank_that_never_touches_a_table_takes_part(order: str, size: int) -> None:
    settings = settings_of(table_sums=order)
    batches = untouched_by_rank_0(BATCHES, size)
    assert_close(trained("mlp", settings, size, batches), expected("mlp", settings, batches), 1e-10)


class Recorded(Alone):
    """Keeps the names of what is sent."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def start_alltoall(self, name: str, pieces: Sequence[Tensor]) -> Pending[list[Tensor]]:
        self.names.append(name)
        return super().start_alltoall(name, pieces)


def test_owners_are_told_a_step_ahead_where_the_next_batches_are_known() -> None:
    told, sent, back = "rows to look up", "rows of tables", "gradients of tables"
    exchange = Recorded()
    model, tables = piece_of("mlp", settings_of(), 0, 1, torch.float64)
    run(Step(model, settings_of(), exchange, tables), BATCHES[:3])
    assert exchange.names == [told, sent, told, back, sent, told, back, sent, back]


@pytest.mark.parametrize("order", ["rank", "batch"])
def test_steps_that_did_not_come_as_they_were_announced_change_nothing(order: str) -> None:
    settings = settings_of(table_sums=order)
    made = [piece_of("mlp", settings, rank, 3, torch.float64) for rank in range(3)]

    def work(exchange: Exchange) -> Part:
        model, tables = made[exchange.rank]
        step = Step(model, settings, exchange, tables)
        pieces = [pieces_of(batch, exchange.size)[exchange.rank] for batch in BATCHES]
        for number, piece in enumerate(pieces):
            step.run(piece, upcoming=[pieces[number - 1]])
        step.sharded.forget()
        step.sharded.forget()
        return part_of(step)

    found, known = weights_of_all(in_ranks(work, 3)), trained("mlp", settings, 3, BATCHES)
    assert all(torch.equal(found[name], weight) for name, weight in known.items())


def losses_slope(step: Step, batch: Batch, weight: Tensor) -> Tensor:
    """The slope of the batch's mean loss in each value of a weight, by small differences."""

    def loss() -> Tensor:
        losses = row_losses(step.model(batch), batch, "binary")
        return (losses * batch.weight).sum() / batch.weight.sum()

    found, flat = torch.zeros_like(weight), weight.view(-1)
    for number, value in enumerate(flat.tolist()):
        flat[number] = value + 1e-6
        above = loss()
        flat[number] = value - 1e-6
        found.view(-1)[number] = (above - loss()) / 2e-6
        flat[number] = value
    return found


# With five ranks three of them have one row or none; rank 0 has no value of the second field.
@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("order", ["rank", "batch"])
@torch.no_grad()
def test_gradients_are_the_slopes_of_one_process_s_loss(order: str, size: int) -> None:
    settings = settings_of(
        optimizer="sgd", learning_rate=1.0, weight_decay=0.0, table_sums=order, schedule="constant"
    )
    (batch,) = untouched_by_rank_0([batch_of(7, seed=1)], size)
    batch = replace(batch, dense=batch.dense.double(), weight=batch.weight.double())
    after = trained("mlp", settings, size, [batch])
    whole = replicated("mlp", settings, Alone(), torch.float64)
    for name, weight in whole.model.named_parameters():
        gradient = weight - after[name]
        slope = losses_slope(whole, batch, weight)
        if name.startswith("net.embeddings"):
            # The row of padding is never updated.
            slope[PADDING_ID] = 0.0
        assert gradient.any()
        assert torch.allclose(gradient, slope, atol=1e-8), name


@torch.no_grad()
def rounded(step: Step, dtype: torch.dtype) -> None:
    for _, table in embedding_tables(step.model):
        table.weight.copy_(table.weight.to(dtype))


@pytest.mark.parametrize("short", ["float16", "bfloat16"])
@pytest.mark.parametrize("optimizer", [*OPTIMIZERS, "row_adagrad"])
def test_short_rows_are_those_of_a_loop_that_rounds_after_each_step(
    optimizer: str, short: str
) -> None:
    settings = settings_of(optimizer=optimizer, tables="sharded", table_dtype=short)
    batches, dtype = [*BATCHES, UNTOUCHED], getattr(torch, short)
    step = replicated("mlp", settings, Alone(), torch.float64)
    rounded(step, dtype)
    for batch in batches:
        run(step, [batch])
        rounded(step, dtype)
    found = trained("mlp", settings, 3, batches)
    assert {of.dtype for of in found.values()} == {torch.float64, dtype}
    assert_close({name: of.double() for name, of in found.items()}, weights_of(step.model), 1e-10)


def test_short_rows_of_whole_tables_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"table_dtype is float16, and train\.tables is repl"):
        replicated("mlp", settings_of(table_dtype="float16"), Alone(), torch.float32)


def test_fresh_weights_are_the_same_bits_sharded_or_not() -> None:
    known = weights_of(replicated("dlrm", settings_of(), Alone(), torch.float32).model)
    for size in (1, 4):
        found = trained("dlrm", settings_of(), size, [], torch.float32)
        assert all(torch.equal(found[name], weight) for name, weight in known.items())
