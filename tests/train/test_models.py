"""Models: sizes from the spec, what the first layer does, models of the user's own, refusals."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from jobs.errors import ConfigError
from jobs.sections import TrainSettings
from jobs.state import NumericStats, State, Vocabulary
from jobs.train.batch import Batch
from jobs.train.models import MODELS, Model, ModelSpec, build_model, predict, row_losses
from jobs.train.models.layers import MOST_DEVIATIONS, InputLayer
from jobs.train.models.spec import embedding_dim
from schemas.field import Categorical
from tests.builders.batches import SPEC, batch_of, padding
from tests.builders.visits import VISITS

BATCH = batch_of(40, seed=1)


class Linear(nn.Module):
    """A model of a user's own, with a table whose gradients are dense by default."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.inputs = InputLayer(spec)
        self.table = nn.Embedding(spec.table_rows[1], 1)
        self.weights = nn.Linear(self.inputs.num_outputs, 1)

    def forward(self, batch: Batch) -> Tensor:
        logits: Tensor = self.weights(self.inputs(batch.dense)) + self.table(batch.sparse[:, 1])
        return logits.squeeze(1)


class Normed(nn.Module):
    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))


def not_a_module(spec: ModelSpec) -> str:
    return "text"


@pytest.mark.parametrize("name", MODELS)
def test_sizes_follow_from_the_spec(name: str) -> None:
    model = build_model(name, SPEC)
    shapes = sorted(tuple(p.shape) for n, p in model.named_parameters() if ".tables." in n)
    deep = [(7, 2), (50, 4), (5, 3)]
    wide = [(7, 1), (50, 1), (5, 1)] if name == "wide_deep" else []
    assert shapes == sorted(deep + wide)
    first = next(p for n, p in model.named_parameters() if n.endswith("mlp.0.weight"))
    assert first.shape == (8, 2 * 3 + 2 + 4 + 3)
    logits = model(BATCH)
    assert logits.shape == (40,)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", MODELS)
def test_a_data_set_may_have_only_numbers_or_only_categories(name: str) -> None:
    numbers = replace(SPEC, table_rows=(), embedding_dims=())
    categories = replace(SPEC, means=(), stds=())
    only_numbers = replace(BATCH, sparse=BATCH.sparse[:, :0])
    only_categories = replace(BATCH, dense=BATCH.dense[:, :0])
    assert build_model(name, numbers)(only_numbers).shape == (40,)
    assert build_model(name, categories)(only_categories).shape == (40,)


def test_the_first_layer_imputes_standardises_and_says_what_was_missing() -> None:
    layer = InputLayer(SPEC)
    dense = torch.tensor([[2.5, math.nan, 3.0], [math.nan, 0.0, -1e30]])
    assert layer(dense).tolist() == [
        [1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
        [0.0, 1.0, -MOST_DEVIATIONS, 1.0, 0.0, 0.0],
    ]
    assert dict(layer.named_parameters()) == {}
    assert sorted(dict(layer.named_buffers())) == ["means", "stds"]


def test_padding_has_the_embedding_zero_for_good() -> None:
    model = build_model("wide_deep", SPEC)
    padded = torch.cat([padding(BATCH).sparse, BATCH.sparse])
    for tables in (model.net.deep.embeddings, model.net.wide):
        assert tables(padded)[0].tolist() == [0.0] * tables.num_outputs
        tables(padded).sum().backward()
        for table in tables.tables:
            assert 0 not in table.weight.grad.coalesce().indices()[0]


def test_the_wide_part_starts_at_zero() -> None:
    torch.manual_seed(0)
    wide_deep = build_model("wide_deep", SPEC)
    assert torch.equal(wide_deep(BATCH), wide_deep.net.deep(BATCH))


# Models of the user's own


def test_a_model_by_module_and_by_file(tmp_path: Path) -> None:
    by_module = build_model("tests.train.test_models:Linear", SPEC)
    (tmp_path / "mine.py").write_text(Path(__file__).read_text())
    by_file = build_model("./mine.py:Linear", SPEC, str(tmp_path))
    for model in (by_module, by_file):
        assert model(BATCH).shape == (40,)
        assert model.net.table.sparse, "tables get sparse gradients"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wide_deap", "one of mlp, wide_deep"),
        ("no.such.module:Net", "no.such.module"),
        ("./no_file.py:Net", "no_file"),
        ("tests.train.test_models:not_a_module", "makes a str"),
        ("tests.train.test_models:Normed", r"BatchNorm1d at body\.1"),
        ("tests.train.test_models:Normed", "GroupNorm"),
    ],
)
def test_what_cannot_be_used_is_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_model(name, SPEC)


# Losses and scores


def test_row_losses_are_log_loss_and_squared_error() -> None:
    logits = torch.linspace(-3, 3, 40)
    chance = torch.sigmoid(logits)
    log_loss = -torch.where(BATCH.label == 1, chance, 1 - chance).log()
    assert torch.allclose(row_losses(logits, BATCH, "binary"), log_loss, atol=1e-6)
    squared = (logits - BATCH.label) ** 2
    assert torch.equal(row_losses(logits, BATCH, "regression"), squared)


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_predict_scores_without_dropout_and_leaves_the_mode(
    task: Literal["binary", "regression"],
) -> None:
    model = build_model("mlp", replace(SPEC, task=task, dropout=0.5))
    model.train()
    scores = predict(model, BATCH)
    assert model.training
    assert torch.equal(scores, predict(model, BATCH)), "dropout is off"
    logits = model.eval()(BATCH).detach()
    assert torch.equal(scores, torch.sigmoid(logits) if task == "binary" else logits)
    assert scores.dtype == torch.float32
    assert not scores.requires_grad


def test_predict_of_a_float64_model_is_float32() -> None:
    assert predict(build_model("mlp", SPEC).double(), BATCH).dtype == torch.float32


# The spec


def state_of(**rows: int) -> State:
    return State(
        ds="2024-01-01",
        id_log_version=1,
        declaration=VISITS.digest,
        generation=1,
        numeric={f.name: NumericStats(4, 1, 2.0, 0.0, 2.0, 2.0) for f in VISITS.numeric},
        vocabulary={name: Vocabulary(1, count, 0) for name, count in rows.items()},
    )


def test_the_spec_of_a_declaration_and_a_state() -> None:
    fields = tuple(
        replace(f, embedding_dim=5) if f.name == "age_group" else f for f in VISITS.fields
    )
    dataset = replace(VISITS, fields=fields)
    state = state_of(shop_id=1000, age_group=12)
    spec = ModelSpec.of(dataset, state, TrainSettings(max_embedding_dim=8, hidden=(4, 2)))
    assert isinstance(dataset.of_kind(Categorical)[0], Categorical)
    assert spec.table_rows == (1000, 12)
    assert spec.embedding_dims == (8, 5), "the rule, capped; the field's own"
    assert spec.means == (2.0,) * 3
    assert spec.stds == (1.0,) * 3, "a deviation of 0 divides by 1"
    assert (spec.dataset, spec.state, spec.task) == ("visits", state.digest, "binary")
    assert spec.hidden == (4, 2)


def test_the_spec_goes_to_json_and_back() -> None:
    spec = replace(SPEC, tensor_shapes={"image": (8, 8, 3)})
    assert ModelSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


@given(st.integers(3, 10**9), st.integers(1, 512))
def test_an_embedding_has_at_least_one_dimension_and_at_most_the_cap(rows: int, cap: int) -> None:
    assert 1 <= embedding_dim(rows, cap) <= cap
    assert embedding_dim(rows, cap) <= embedding_dim(rows + 1, cap)


def test_a_model_is_what_its_names_say() -> None:
    assert isinstance(build_model("mlp", SPEC), Model)
    assert embedding_dim(1000, 512) == round(1.6 * 1000**0.56)
