"""The gradient is that of the global batch, for any number of ranks and ragged pieces."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jobs.base.errors import ConfigError
from jobs.batch.batch import Batch
from jobs.models.build import Model, build_model, row_losses
from jobs.settings.train import TrainSettings
from jobs.train.exchange.exchange import Alone, Exchange
from jobs.train.exchange.pending import Pending
from jobs.train.exchange.rows import TableRows
from jobs.train.step.finite import Diverged
from jobs.train.step.step import Step
from tests.builders.batches import SPEC, batch_of, in_ranks, padding, pieces_of
from tests.builders.devices import DEVICES
from tests.builders.reference import (
    BATCHES,
    fresh_model,
    in_groups,
    plain_loop,
    settings_of,
    trained,
    weights_of,
)


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def assert_all_equal_the_plain_loop(
    model: Model, settings: TrainSettings, size: int, atol: float, device: str
) -> None:
    """Trains over BATCHES on a device, and by the plain loop on the CPU.

    The ranks' weights must also have equal bits.
    """
    groups = in_groups(BATCHES, settings.accumulate_steps)
    expected = plain_loop(copy.deepcopy(model), settings, groups)
    own = model.to(device)
    found = in_ranks(
        lambda exchange: trained(exchange, copy.deepcopy(own), settings, BATCHES), size
    )
    for weights in found:
        for name, weight in expected.items():
            assert torch.allclose(weights[name], weight, rtol=0, atol=atol), name
            assert torch.equal(weights[name], found[0][name]), f"ranks differ in {name}"


CHANGES = [{}, {"accumulate_steps": 3}, {"clip_norm": 0.05}]


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("changes", CHANGES, ids=["plain", "accumulated", "clipped"])
@pytest.mark.parametrize("optimizer", ["sgd", "adagrad", "row_adagrad", "adam"])
def test_any_number_of_ranks_trains_as_one_plain_loop_does(
    optimizer: str, changes: dict[str, Any], size: int, device: str
) -> None:
    settings = settings_of(optimizer=optimizer, **changes)
    assert_all_equal_the_plain_loop(fresh_model().double(), settings, size, 1e-10, device)


@pytest.mark.parametrize("name", ["dlrm", "dcn_v2"])
def test_other_models_train_as_one_plain_loop_does(name: str, device: str) -> None:
    assert_all_equal_the_plain_loop(fresh_model(name).double(), settings_of(), 3, 1e-10, device)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_float32_sgd_stays_near_the_plain_loop(size: int, device: str) -> None:
    sgd = settings_of(optimizer="sgd")
    assert_all_equal_the_plain_loop(fresh_model(), sgd, size, 1e-5, device)


def test_the_reference_would_notice_a_mean_of_means() -> None:
    """Guards the tests above: the pieces' weights are uneven enough to matter."""
    model = fresh_model().double()
    sgd = settings_of(optimizer="sgd")
    whole = plain_loop(copy.deepcopy(model), sgd, [BATCHES[:1]])
    first, second = pieces_of(BATCHES[0], 2)
    halves = [plain_loop(copy.deepcopy(model), sgd, [[piece]]) for piece in (first, second)]
    mean = {name: (halves[0][name] + halves[1][name]) / 2 for name in whole}
    assert any(not torch.allclose(mean[n], whole[n], rtol=0, atol=1e-4) for n in whole)


def test_a_batch_of_padding_beside_rows_changes_nothing(device: str) -> None:
    model = fresh_model().double().to(device)
    alone = trained(Alone(), copy.deepcopy(model), settings_of(), BATCHES[:1])

    def work(exchange: Exchange) -> dict[str, Tensor]:
        own = copy.deepcopy(model)
        step = Step(own, settings_of(), exchange)
        step.run(BATCHES[0] if exchange.rank == 1 else padding(BATCHES[0]))
        return weights_of(own)

    for weights in in_ranks(work, 3):
        for name in alone:
            assert torch.allclose(weights[name], alone[name], rtol=0, atol=1e-12), name


def test_padding_needs_no_model_that_takes_it() -> None:
    class OneRowAtLeast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(3))

        def forward(self, batch: Batch) -> Tensor:
            assert batch.is_row.all()
            return batch.dense.nan_to_num() @ self.weight

    def work(exchange: Exchange) -> Tensor:
        model = Model(OneRowAtLeast(), "binary")
        Step(model, settings_of(), exchange).run(pieces_of(BATCHES[5], 3)[exchange.rank])
        return next(model.parameters()).detach()

    first, *others = in_ranks(work, 3)
    assert first.abs().sum() > 0
    assert all(torch.equal(first, other) for other in others)


def test_only_touched_rows_of_a_table_change_and_decay_leaves_tables_alone() -> None:
    model = fresh_model()
    before = weights_of(model)
    batch = batch_of(8, seed=1)
    with_decay = trained(Alone(), copy.deepcopy(model), settings_of(weight_decay=0.5), [batch])
    without = trained(Alone(), copy.deepcopy(model), settings_of(weight_decay=0.0), [batch])
    for place in ("net.deep.embeddings", "net.wide"):
        embeddings = model.get_submodule(place)
        for number, columns in enumerate(embeddings.columns):
            name = f"{place}.tables.{number}.weight"
            ids = [(c, i) for c in columns for i in batch.sparse[:, c].tolist() if i]
            touched = {embeddings.place(c)[1] + i - 1 for c, i in ids}
            moved = (without[name] != before[name]).any(dim=1).nonzero()[:, 0].tolist()
            assert set(moved) == touched
            assert torch.equal(with_decay[name], without[name])
    dense = "net.deep.mlp.0.weight"
    assert not torch.allclose(with_decay[dense], without[dense])


def test_ranks_start_from_rank_0s_weights() -> None:
    # Made here: ranks as threads share torch's generator.
    models = [fresh_model(seed=rank) for rank in range(2)]

    def work(exchange: Exchange) -> dict[str, Tensor]:
        model = models[exchange.rank]
        Step(model, settings_of(), exchange)
        return weights_of(model)

    first, second = in_ranks(work, 2)
    expected = weights_of(fresh_model(seed=0))
    for name in expected:
        assert torch.equal(first[name], expected[name])
        assert torch.equal(second[name], expected[name])


def test_the_loss_is_the_weighted_mean_of_the_global_batch() -> None:
    model = fresh_model().double()
    batch = BATCHES[0]
    losses = row_losses(model(batch), batch, "binary").detach()
    expected = float((losses * batch.weight.double()).sum() / batch.weight.double().sum())

    def work(exchange: Exchange) -> tuple[float, float]:
        step = Step(copy.deepcopy(model), settings_of(), exchange)
        done = step.run(pieces_of(batch, 3)[exchange.rank])
        return done.loss, done.weight

    for loss, weight in in_ranks(work, 3):
        assert loss == pytest.approx(expected, abs=1e-12)
        assert weight == pytest.approx(float(batch.weight.double().sum()), abs=1e-12)


def test_a_loss_that_is_no_number_ends_all_ranks() -> None:
    batch = batch_of(64, seed=1)
    batch.weight[-1] = math.inf

    def work(exchange: Exchange) -> str:
        step = Step(fresh_model(), settings_of(), exchange)
        before = weights_of(step.model)
        with pytest.raises(Diverged, match="inf") as raised:
            step.run(pieces_of(batch, 2)[exchange.rank])
        assert all(torch.equal(before[n], w) for n, w in weights_of(step.model).items())
        return raised.value.remedy

    assert all("learning_rate" in remedy for remedy in in_ranks(work, 2))


def test_a_table_used_outside_its_own_forward_is_refused_by_name() -> None:
    class Borrows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(50, 3, sparse=True)

        def forward(self, batch: Batch) -> Tensor:
            return batch.dense.nan_to_num() @ self.table.weight.sum(0)

    step = Step(Model(Borrows(), "binary"), settings_of(optimizer="sgd"), Alone())
    with pytest.raises(ConfigError, match=r"net\.table\.weight"):
        step.run(BATCHES[0])


def test_rows_of_tables_are_sent_while_other_gradients_are_computed() -> None:
    model = fresh_model("dlrm")
    bottom = model.get_submodule("net.bottom")[0]

    class Watched(Alone):
        def start_rows(
            self, name: str, parts: Sequence[TableRows], dtype: torch.dtype | None
        ) -> Pending[TableRows]:
            seen.append((name, bottom.weight.grad is not None))
            return super().start_rows(name, parts, dtype)

    seen: list[tuple[str, bool]] = []
    step = Step(model, settings_of(accumulate_steps=2), Watched())
    step.run(BATCHES[0], padding(BATCHES[0]))
    assert len(seen) == 3, "every table once"
    assert all(done for _, done in seen), "padding has no gradients to wait for"
    seen.clear()
    step.run(BATCHES[0])
    assert len(seen) == 3
    assert not any(done for _, done in seen)


# Settings of the loss and of the gradient


def loss_of(batch: Batch, **changes: Any) -> tuple[float, float]:
    done = Step(fresh_model().double(), settings_of(**changes), Alone()).run(batch)
    return done.loss, done.weight


def test_a_positive_row_counts_as_so_many_rows() -> None:
    batch, again = batch_of(64, seed=1), batch_of(64, seed=1)
    again.weight[:] = torch.where(batch.label > 0.5, 3 * batch.weight, batch.weight)
    assert loss_of(batch, positive_weight=3.0) == pytest.approx(loss_of(again), rel=1e-6)


def test_smoothed_labels_are_partly_those_of_the_other_class() -> None:
    batch, other = batch_of(64, seed=1), batch_of(64, seed=1)
    other.label[:] = 1 - other.label
    (own, _), (opposite, _) = loss_of(batch), loss_of(other)
    smoothed, _ = loss_of(batch, label_smoothing=0.2)
    assert smoothed == pytest.approx(0.9 * own + 0.1 * opposite)


@pytest.mark.parametrize(("name", "value"), [("label_smoothing", 0.1), ("positive_weight", 2.0)])
def test_what_only_classes_have_is_refused_for_numbers(name: str, value: float) -> None:
    model = build_model("mlp", replace(SPEC, task="regression"))
    with pytest.raises(ConfigError, match=f"train.{name} is set, .* regression"):
        Step(model, settings_of(**{name: value}), Alone())


@pytest.mark.parametrize(("dtype", "digits"), [("float16", 1e-3), ("bfloat16", 1e-2)])
def test_short_values_keep_ranks_equal_and_near(dtype: str, digits: float, device: str) -> None:
    model = fresh_model()
    sgd = settings_of(optimizer="sgd", wire_dtype=dtype)
    exact = plain_loop(copy.deepcopy(model), sgd, in_groups(BATCHES, 1))
    model.to(device)
    found = in_ranks(lambda exchange: trained(exchange, copy.deepcopy(model), sgd, BATCHES), 3)
    changed = False
    for name, weight in exact.items():
        assert all(torch.equal(weights[name], found[0][name]) for weights in found)
        assert torch.allclose(found[0][name], weight, rtol=0, atol=digits), name
        changed |= not torch.allclose(found[0][name], weight, rtol=0, atol=1e-7)
    assert changed, "the values were not short"


def test_a_gradient_too_large_for_float16_is_cut(device: str) -> None:
    batch = batch_of(64, seed=1)
    batch.weight[:] = 1e7
    sgd = settings_of(optimizer="sgd", wire_dtype="float16")
    model = fresh_model().to(device)
    found = in_ranks(lambda exchange: trained(exchange, copy.deepcopy(model), sgd, [batch]), 2)
    for weights in found:
        assert all(weight.isfinite().all() for weight in weights.values())


def test_bfloat16_is_near_and_keeps_weights_in_float32(device: str) -> None:
    batch = batch_of(64, seed=1)
    model = fresh_model().to(device)
    step = Step(model, settings_of(precision="bfloat16"), Alone())
    exact, _ = loss_of(batch)
    low = step.run(batch).loss
    assert low != exact
    assert low == pytest.approx(exact, rel=0.02)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


class OfTwoDtypes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(SPEC.num_dense, 1)
        self.second = nn.Linear(SPEC.num_dense, 1).double()

    def forward(self, batch: Batch) -> Tensor:
        dense = batch.dense.nan_to_num()
        return (self.first(dense) + self.second(dense.double()).float()).squeeze(1)


@pytest.mark.parametrize("size", [1, 2])
def test_a_model_may_have_parameters_of_two_dtypes(size: int) -> None:
    model = Model(OfTwoDtypes(), "binary")
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    batch = batch_of(16, seed=0)

    def work(exchange: Exchange) -> dict[str, Tensor]:
        step = Step(copy.deepcopy(model), TrainSettings(), exchange)
        step.run(pieces_of(batch, size)[exchange.rank])
        return dict(step.model.named_parameters())

    for found in [work(Alone())] if size == 1 else in_ranks(work, size):
        for name, weight in found.items():
            assert weight.dtype == before[name].dtype
            assert not torch.equal(weight, before[name]), name
