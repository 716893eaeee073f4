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

from jobs.base.errors import ConfigError
from jobs.batch.batch import Batch
from jobs.batch.layout import Layout
from jobs.lake.state import NumericStats, State, Vocabulary
from jobs.models.build import MODELS, Model, build_model, predict, row_losses
from jobs.models.layers import MOST_DEVIATIONS, Embeddings, EmbeddingTable, InputLayer
from jobs.models.spec import ModelSpec, embedding_dim
from jobs.settings.train import TrainSettings
from schemas.field import Categorical
from tests.builders.baskets import BASKETS
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


@pytest.mark.parametrize("name", sorted(MODELS.keys() - {"cnn"}))
def test_sizes_follow_from_the_spec(name: str) -> None:
    model = build_model(name, SPEC)
    shapes = sorted(tuple(p.shape) for n, p in model.named_parameters() if ".tables." in n)
    deep = [(7, 2), (50, 4), (5, 3)]
    wide = [(1 + 6 + 49 + 4, 1)] if name == "wide_deep" else []
    assert shapes == sorted(deep + wide)
    parameters = {n.split(".", 1)[1]: tuple(p.shape) for n, p in model.named_parameters()}
    numbers, ids = 2 * 3, 2 + 4 + 3
    first = {
        "mlp": ("mlp.0.weight", (8, numbers + ids)),
        "wide_deep": ("deep.mlp.0.weight", (8, numbers + ids)),
        "dlrm": ("top.0.weight", (8, 4 * 3 // 2 + 4)),
        "dcn_v2": ("crosses.2.weight", (numbers + ids, numbers + ids)),
    }
    place, shape = first[name]
    assert parameters[place] == shape
    logits = model(BATCH)
    assert logits.shape == (40,)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()


def test_dlrm_takes_the_dot_product_of_each_pair_of_vectors() -> None:
    torch.manual_seed(1)
    net = build_model("dlrm", replace(SPEC, embedding_dims=(4, 4, 4), bottom_hidden=(5,))).net
    assert not list(net.projections.parameters())
    seen = []
    net.top.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    net(BATCH)
    bottom = net.bottom(net.inputs(BATCH.dense))
    table = net.embeddings.tables[0].weight
    # Rows 1 to 6 are the first field's, 7 to 55 the second's, 56 to 59 the third's.
    firsts = torch.tensor([0, 6, 55])
    rows = torch.where(BATCH.sparse == 0, 0, BATCH.sparse + firsts)
    vectors = [bottom, *(table[rows[:, c]] for c in range(3))]
    products = [(vectors[i] * vectors[j]).sum(1) for i in range(4) for j in range(i)]
    expected = torch.cat([bottom, torch.stack(products, dim=1)], dim=1)
    assert torch.allclose(seen[0], expected, atol=1e-6)


def test_dlrm_projects_smaller_embeddings_to_the_largest() -> None:
    net = build_model("dlrm", SPEC).net
    sizes = [tuple(p.shape) for p in net.projections.parameters()]
    assert sizes == [(4, 2), (4, 3)]


def test_dcn_crosses_are_those_of_the_paper() -> None:
    torch.manual_seed(1)
    net = build_model("dcn_v2", replace(SPEC, cross_layers=1)).net
    seen = []
    net.last.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    net(BATCH)
    x0 = torch.cat([net.inputs(BATCH.dense), net.embeddings(BATCH.sparse)], dim=1)
    weight, bias = net.crosses[0].weight, net.crosses[0].bias
    crossed = x0 * (x0 @ weight.T + bias) + x0
    assert torch.allclose(seen[0][:, : x0.shape[1]], crossed, atol=1e-6)


# Embeddings


def test_fields_of_one_dimension_share_a_table_and_no_row() -> None:
    embeddings = Embeddings((7, 50, 5, 3), (2, 4, 2, 2), std=1.0)
    assert [tuple(t.weight.shape) for t in embeddings.tables] == [(1 + 6 + 4 + 2, 2), (50, 4)]
    assert embeddings.columns == [[0, 2, 3], [1]]
    places = [embeddings.place(c) for c in range(4)]
    assert places == [(0, 1), (1, 1), (0, 7), (0, 11)]
    ids = torch.tensor([[6, 49, 4, 2], [1, 1, 1, 1], [0, 0, 0, 0]])
    found = embeddings(ids)
    small, large = (t.weight for t in embeddings.tables)
    assert torch.equal(found[0], torch.cat([small[6], small[10], small[12], large[49]]))
    assert torch.equal(found[1], torch.cat([small[1], small[7], small[11], large[1]]))
    assert found[2].tolist() == [0.0] * 10


@pytest.mark.parametrize("wrong", [7, -1])
def test_an_id_outside_its_field_is_no_other_fields_row(wrong: int) -> None:
    embeddings = Embeddings((7, 50), (2, 2), std=1.0)
    with pytest.raises(ValueError, match="field number 0 is outside its table of 7 rows"):
        embeddings(torch.tensor([[1, 49], [wrong, 1]]))


@pytest.mark.parametrize("name", sorted(MODELS.keys() - {"cnn"}))
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
    by_module = build_model("tests.models.test_models:Linear", SPEC)
    (tmp_path / "mine.py").write_text(Path(__file__).read_text())
    by_file = build_model("./mine.py:Linear", SPEC, str(tmp_path))
    for model in (by_module, by_file):
        assert model(BATCH).shape == (40,)
        assert model.net.table.sparse, "tables get sparse gradients"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wide_deap", "one of mlp, wide_deep, dlrm, dcn_v2, cnn"),
        ("no.such.module:Net", "no.such.module"),
        ("./no_file.py:Net", "no_file"),
        ("tests.models.test_models:not_a_module", "makes a str"),
        ("tests.models.test_models:Normed", r"BatchNorm1d at body\.1"),
        ("tests.models.test_models:Normed", "GroupNorm"),
    ],
)
def test_what_cannot_be_used_is_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_model(name, SPEC)


# Losses and scores


def unmade(spec: ModelSpec) -> nn.Module:
    raise ZeroDivisionError


def test_a_model_that_cannot_be_made_leaves_tables_their_values() -> None:
    with pytest.raises(ZeroDivisionError):
        build_model(f"{__name__}:unmade", SPEC, with_tables=False)

    assert not EmbeddingTable(3, 2, std=0.1).weight.is_meta


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
    one = ModelSpec.of(dataset, state, TrainSettings(embedding_dim=32, max_embedding_dim=8))
    assert one.embedding_dims == (32, 5), "embedding_dim takes the rule's place; no cap"


@pytest.mark.parametrize("left_out", [("shop_id", "amount_log"), VISITS.inputs[:3], ("age_group",)])
@pytest.mark.parametrize("name", sorted(MODELS.keys() - {"cnn"}))
def test_a_field_left_out_has_no_place_in_the_model(name: str, left_out: tuple[str, ...]) -> None:
    """Numbers, ids, all numbers: what is left has the sizes that it has beside them."""
    state = state_of(shop_id=1000, age_group=12)
    whole = ModelSpec.of(VISITS, state, TrainSettings())
    spec = ModelSpec.of(VISITS, state, TrainSettings(leave_out=left_out))
    seen = spec.columns(VISITS)
    assert set(seen) == set(VISITS.inputs) - set(left_out)
    assert spec.num_dense == sum(f.name in seen for f in VISITS.numeric)
    rows = dict(zip((f.name for f in VISITS.categorical), whole.table_rows, strict=True))
    assert spec.table_rows == tuple(rows[name] for name in rows if name in seen)
    batch = Layout(VISITS, seen).padding()
    assert predict(build_model(name, spec), batch).shape == (1,)
    assert ModelSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


@pytest.mark.parametrize("name", BASKETS.inputs)
def test_a_list_left_out_has_no_place_either(name: str) -> None:
    stats = NumericStats(4, 1, 2.0, 0.0, 2.0, 2.0)
    state = replace(
        state_of(**{f.log_name: 9 for f in BASKETS.with_ids}),
        numeric={f.name: stats for f in BASKETS.measured},
    )
    spec = ModelSpec.of(BASKETS, state, TrainSettings(leave_out=(name,)))
    assert name not in {*spec.id_lists, *spec.number_lists}
    batch = Layout(BASKETS, spec.columns(BASKETS)).padding()
    assert name not in batch.tensors
    assert len(predict(build_model("wide_deep", spec), batch)) == 1


@pytest.mark.parametrize(
    ("left_out", "said"),
    [
        (("shop_idd",), "'shop_idd', which is no input"),
        (("label",), "'label', which is no input"),
        (("shop",), "'shop', which is no input"),
        (VISITS.inputs, "all inputs of 'visits'"),
    ],
)
def test_what_cannot_be_left_out_is_named(left_out: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        TrainSettings(leave_out=left_out).left_out(VISITS)
    assert "amount_log" in str(refused.value)


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
