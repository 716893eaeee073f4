"""With slices, results in float32 have the same bits at any number of ranks."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from jobs.batch.batch import Batch
from jobs.settings.train import TrainSettings
from jobs.train.exchange.exchange import Alone, Exchange
from jobs.train.order.slices import Slices
from jobs.train.step.parts import Cutter, cut
from jobs.train.step.step import Step
from jobs.train.step.validation import Validation, validate
from tests.builders.batches import batch_of, in_ranks, padding
from tests.builders.reference import (
    BATCHES,
    fresh_model,
    in_groups,
    plain_loop,
    settings_of,
    trained,
    weights_of,
)
from tests.builders.slices import SLICES, STREAMS, piece_for, slices_of, trained_in_slices

PLAIN: dict[str, Any] = {}
CHANGES: list[dict[str, Any]] = [
    PLAIN,
    {"accumulate_steps": 3},
    {"clip_norm": 0.05},
    {"wire_dtype": "bfloat16"},
]
# Model, optimizer and other settings; the first ones in both kinds of tables.
CASES = [
    *(("mlp", optimizer, PLAIN) for optimizer in ("sgd", "row_adagrad")),
    *(("mlp", "adam", changes) for changes in CHANGES),
    ("dlrm", "adam", PLAIN),
]


CPU = torch.device("cpu")


def assert_same_bits(found: dict[str, Tensor], known: dict[str, Tensor]) -> None:
    assert found.keys() == known.keys()
    for name, weight in known.items():
        assert torch.equal(found[name], weight), name


def assert_same_at_any_ranks(
    name: str, settings: TrainSettings, sizes: Sequence[int], batches: Sequence[Batch]
) -> None:
    known, losses = trained_in_slices(name, settings, 1, batches)
    for size in sizes:
        found, own = trained_in_slices(name, settings, size, batches)
        assert_same_bits(found, known)
        assert own == losses


@pytest.mark.parametrize("tables", ["replicated", "sharded"])
@pytest.mark.parametrize(("name", "optimizer", "changes"), CASES, ids=str)
def test_weights_and_losses_have_the_same_bits_at_any_number_of_ranks(
    name: str, optimizer: str, changes: dict[str, Any], tables: str
) -> None:
    settings = settings_of(optimizer=optimizer, tables=tables, gradient_slices=SLICES, **changes)
    assert_same_at_any_ranks(name, settings, (2, 3), BATCHES)


@pytest.mark.slow
@pytest.mark.parametrize("tables", ["replicated", "sharded"])
@pytest.mark.parametrize("optimizer", ["sgd", "adagrad", "row_adagrad", "adam"])
def test_after_many_steps_they_still_have(optimizer: str, tables: str) -> None:
    settings = settings_of(
        optimizer=optimizer, tables=tables, gradient_slices=SLICES, clip_norm=0.05
    )
    assert_same_at_any_ranks(
        "dlrm", settings, (2, 3, 5), [batch_of(40, seed) for seed in range(30)]
    )


def test_without_slices_the_bits_differ() -> None:
    """Guards the tests above: the data is such that an order shows."""
    sgd = settings_of(optimizer="sgd")
    weights = []
    for size in (1, 2):
        models = [fresh_model() for _ in range(size)]

        def work(exchange: Exchange) -> dict[str, Tensor]:
            return trained(exchange, models[exchange.rank], sgd, BATCHES)  # noqa: B023

        weights.append(in_ranks(work, size)[0])
    one, two = weights
    assert any(not torch.equal(one[name], two[name]) for name in one)


def test_slices_train_as_one_plain_loop_does() -> None:
    settings = settings_of(optimizer="adam", gradient_slices=SLICES, accumulate_steps=3)

    def work(exchange: Exchange) -> dict[str, Tensor]:
        model = models[exchange.rank]
        step = Step(model, settings, exchange, slices=slices_of(exchange))
        for number, group in enumerate(in_groups(BATCHES, 3)):
            own = [piece_for(batch, slices_of(exchange)) for batch in group]
            step.run(*own, rate=1 / (1 + number))
        return weights_of(model)

    known = plain_loop(fresh_model().double(), settings, in_groups(BATCHES, 3))
    for size in (1, 2):
        models = [fresh_model().double() for _ in range(size)]
        for found in in_ranks(work, size):
            for name, weight in known.items():
                assert torch.allclose(found[name], weight, rtol=0, atol=1e-10), name


def test_a_validation_has_the_same_bits_at_any_number_of_ranks() -> None:
    model, batches = fresh_model(), [*BATCHES, batch_of(400, seed=9)]

    def work(exchange: Exchange) -> Validation:
        slices = slices_of(exchange)
        own = [piece_for(batch, slices) for batch in batches]
        return validate(copy.deepcopy(model), CPU, own, exchange, slices=slices)

    (known,) = in_ranks(work, 1)
    whole = validate(model, CPU, batches, Alone())
    assert known.loss == pytest.approx(whole.loss, abs=1e-6)
    assert known.weight == pytest.approx(whole.weight)
    for size in (2, 3):
        assert in_ranks(work, size) == [known] * size


def test_a_batch_is_cut_into_the_rows_of_each_slice_in_their_order() -> None:
    batch = batch_of(50, seed=1, first_row=7)
    parts = {}
    for rank in range(4):
        slices = Slices(SLICES, STREAMS, rank, 4)
        found = cut(piece_for(batch, slices), slices)
        parts |= dict(zip(slices.owned, found, strict=True))
    assert sorted(parts) == list(range(SLICES))
    for number, part in parts.items():
        positions = [p for p in range(7, 57) if p % STREAMS // 2 == number]
        assert part.position.tolist() == positions
        assert torch.equal(part.row_id, batch.row_id[torch.tensor(positions) - 7])


def test_padding_and_slices_without_rows_are_parts_too() -> None:
    slices = Slices(SLICES, STREAMS)
    assert [part.rows for part in cut(batch_of(3, seed=1), slices)] == [2, 1, 0, 0, 0, 0]
    assert [part.rows for part in cut(padding(BATCHES[0]), slices)] == [0] * SLICES


def test_parts_of_announced_batches_are_the_same_objects() -> None:
    cutter = Cutter(Slices(2, STREAMS))
    first, second = BATCHES[:2]
    _, ((announced,), _) = cutter.parts([first], [second])
    ((came,), _), _ = cutter.parts([second], [first])
    assert came is announced
    ((again,), _), _ = cutter.parts([second], [])
    assert again is came
