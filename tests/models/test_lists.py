"""Lists in the models: pooled over elements alone, with gradients of the touched rows alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from jobs.base.errors import DataRefused
from jobs.batch.batch import Batch
from jobs.batch.columns import padded
from jobs.models.build import MODELS, build_model, embedding_tables, row_losses
from jobs.models.spec import ModelSpec
from jobs.settings.train import TrainSettings
from jobs.train.exchange.exchange import Alone
from jobs.train.step.step import Step
from schemas.dataset import Column, Dataset, DeclarationError, Source
from schemas.field import Categorical, CategoricalList, Label, NumericList
from tests.builders.batches import SPEC, batch_of

SPEC_L = replace(
    SPEC,
    id_lists={"tags": (9, 4), "pages": (20, 2)},
    number_lists={"prices": (1.0, 2.0)},
    tensor_shapes={"image": (4, 4)},
)


def with_lists(rows: int, longest: int = 3) -> Batch:
    batch = batch_of(rows, seed=4)
    g = torch.Generator().manual_seed(4)
    length = torch.arange(rows) % (longest + 1)
    holds = torch.arange(longest) < length[:, None]
    lists = {
        "tags": torch.randint(1, 9, (rows, longest), generator=g) * holds,
        "pages": torch.randint(1, 20, (rows, longest), generator=g) * holds,
        "prices": torch.randn(rows, longest, generator=g) * holds,
    }
    tensors = {f"{name}_length": length for name in lists} | lists
    image = torch.zeros(rows, 4, 4, dtype=torch.uint8)
    return replace(batch, tensors={**tensors, "image": image})


def changed(batch: Batch, **tensors: torch.Tensor) -> Batch:
    return replace(batch, tensors={**batch.tensors, **tensors})


@pytest.mark.parametrize("name", sorted(MODELS))
def test_lists_are_pooled_whatever_their_order_and_padding(name: str) -> None:
    torch.manual_seed(0)
    model, batch = build_model(name, SPEC_L), with_lists(12)
    with torch.no_grad():
        for _, table in embedding_tables(model):
            table.weight[1:].normal_()
    logits = model(batch)
    lists = ("tags", "pages", "prices")

    wider = {n: torch.nn.functional.pad(batch.tensors[n], (0, 5)) for n in lists}
    assert torch.allclose(model(changed(batch, **wider)), logits, atol=1e-6)
    turned = {n: batch.tensors[n].flip(1) for n in lists}
    assert torch.allclose(model(changed(batch, **turned)), logits, atol=1e-6)
    for n in lists:
        other = batch.tensors[n].clone()
        other[3] = other[3] % 5 + 1
        moved = (model(changed(batch, **{n: other})) - logits).abs()
        assert moved[3] > 1e-6, f"{name} does not see {n}"
        assert moved[:3].max() < 1e-6


@pytest.mark.parametrize("name", sorted(MODELS))
def test_only_rows_of_the_elements_get_gradients(name: str) -> None:
    model, batch = build_model(name, SPEC_L), with_lists(6)

    row_losses(model(batch), batch, "binary").sum().backward()

    touched = set(batch.tensors["tags"].flatten().tolist()) - {0}
    tables = [table for _, table in embedding_tables(model) if table.num_embeddings == 9]
    assert tables
    for table in tables:
        gradient = table.weight.grad
        assert gradient is not None and gradient.is_sparse
        moved = gradient.to_dense().abs().sum(dim=1).nonzero().flatten().tolist()
        assert set(moved) <= touched
    before = [table.weight[0].clone() for table in tables]
    model.zero_grad()
    Step(model, TrainSettings(optimizer="adam"), Alone()).run(batch)
    assert all(torch.equal(table.weight[0], b) for table, b in zip(tables, before, strict=True))
    assert all(not b.any() for b in before)


def test_the_spec_goes_to_json_and_back() -> None:
    assert ModelSpec.from_json(SPEC_L.to_json()) == SPEC_L


def test_lists_become_a_padded_matrix() -> None:
    lists = pa.array([[9], [1, 2, 3], [], [4, 5]], pa.list_(pa.int32()))

    matrix, lengths = padded(lists[1:], "tags", 3)

    assert matrix.tolist() == [[1, 2, 3], [0, 0, 0], [4, 5, 0]]
    assert (lengths.tolist(), matrix.dtype) == ([3, 0, 2], np.int32)


@pytest.mark.parametrize(
    ("lists", "message"),
    [([[1, 2], [1, 2, 3, 4]], "list 'tags' has 4 elements"), ([[1, None]], "holds nulls")],
)
def test_a_list_that_does_not_fit_is_refused(lists: list[list[int]], message: str) -> None:
    with pytest.raises(DataRefused, match=message):
        padded(pa.array(lists, pa.list_(pa.int32())), "tags", 3)


def test_a_declaration_says_the_longest_list_and_leaves_the_name_of_its_length() -> None:
    with pytest.raises(ValueError, match="NumericList 'prices': max_length is 0"):
        NumericList("prices")
    with pytest.raises(ValueError, match="CategoricalList 'tags': oov_buckets is 0"):
        CategoricalList("tags", max_length=3, oov_buckets=0)
    with pytest.raises(DeclarationError, match="tags_length has the name of the lengths"):
        Dataset(
            name="d",
            sources=(Source("d", (Column("k", "int"),)),),
            rows="d",
            key=("k",),
            fields=(
                Label("y", "k"),
                CategoricalList("tags", "[k]", max_length=3),
                Categorical("tags_length", "k"),
            ),
        )
