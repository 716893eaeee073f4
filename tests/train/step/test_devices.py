"""Training on a GPU, where there is one, is that on the CPU."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from jobs.batch.batch import Batch
from jobs.models.build import MODELS, build_model, row_losses
from jobs.models.layers import Embeddings
from jobs.models.mlp import MLP
from jobs.settings.train import TrainSettings
from jobs.train.exchange.exchange import Alone
from jobs.train.exchange.rows import TableRows, coalesced
from jobs.train.keep.commits import RankMemory
from jobs.train.rank import train_rank
from jobs.train.step.device import exact_convolutions
from jobs.train.step.step import Step
from tests.builders.devices import DEVICES
from tests.builders.examples import write_examples
from tests.builders.reference import weights_of
from tests.builders.training import PLACES, job_of
from tests.models.test_lists import SPEC_L, with_lists


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_model_computes_where_its_weights_are(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device `meta` has shapes alone, and refuses tensors of the CPU as a GPU does."""
    monkeypatch.setattr(Embeddings, "_check", lambda *_: None)
    model, batch = build_model(name, SPEC_L).to("meta"), with_lists(12).to("meta")
    logits = model(batch)
    losses = row_losses(logits, batch, "binary", smoothing=0.1)
    assert (logits.device.type, losses.device.type) == ("meta", "meta")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", sorted(MODELS))
def test_inputs_of_all_kinds_train_on_a_device_as_on_the_cpu(name: str, device: str) -> None:
    torch.manual_seed(0)
    model = build_model(name, SPEC_L).double()
    settings = TrainSettings(learning_rate=0.05, clip_norm=0.5)
    ours, theirs = (
        Step(copy.deepcopy(model).to(place), settings, Alone()) for place in (device, "cpu")
    )
    for rows in (12, 5, 30):
        batch = with_lists(rows)
        assert ours.run(batch).loss == pytest.approx(theirs.run(batch).loss, rel=1e-12)
    expected = weights_of(theirs.model)
    for parameter, weight in weights_of(ours.model).items():
        assert torch.allclose(weight, expected[parameter], rtol=0, atol=1e-10), parameter


def trained_cnn(device: str, dtype: torch.dtype) -> dict[str, Tensor]:
    spec = replace(SPEC_L, tensor_shapes={"image": (28, 28)})
    g = torch.Generator().manual_seed(1)
    torch.manual_seed(0)
    model = build_model("cnn", spec).to(device, dtype)
    step = Step(model, TrainSettings(optimizer="sgd", learning_rate=0.1), Alone())
    for rows in (64, 33, 256):
        image = torch.randint(0, 256, (rows, 28, 28), generator=g, dtype=torch.uint8)
        batch = with_lists(rows)
        step.run(replace(batch, tensors={**batch.tensors, "image": image}))
    return weights_of(model)


@pytest.mark.parametrize("device", DEVICES)
def test_convolutions_are_exact_and_the_same_from_run_to_run(device: str) -> None:
    expected = trained_cnn("cpu", torch.float64)
    with exact_convolutions():
        first, *others = [trained_cnn(device, torch.float32) for _ in range(3)]
    for name, weight in first.items():
        assert all(torch.equal(weight, other[name]) for other in others), name
        assert torch.allclose(weight.double(), expected[name], rtol=0, atol=1e-5), name


class Exact(MLP):
    """Is trained with exact convolutions alone."""

    def forward(self, batch: Batch) -> Tensor:
        assert torch.backends.cudnn.deterministic
        assert not torch.backends.cudnn.allow_tf32
        return super().forward(batch)


def test_a_training_has_exact_convolutions(tmp_path: Path) -> None:
    examples = write_examples(tmp_path / "lake", PLACES)
    name = "tests.train.step.test_devices:Exact"
    job = job_of(examples, tmp_path / "run", model=name, epochs=1)
    assert train_rank(job, Alone(), RankMemory()).history.best is not None


@pytest.mark.parametrize("device", DEVICES)
def test_rows_of_frequent_ids_are_added_up_whole(device: str) -> None:
    ids = torch.tensor([5, 0, 5, 7] * 999 + [7] * 130 + [3])
    values = torch.randint(-9, 9, (len(ids), 3), generator=torch.Generator().manual_seed(1))
    found = coalesced(TableRows(ids.to(device), values.double().to(device)))
    assert found.ids.tolist() == [0, 3, 5, 7]
    expected = torch.zeros(8, 3, dtype=torch.float64).index_add_(0, ids, values.double())
    assert torch.equal(found.values.cpu(), expected[found.ids.cpu()])
