"""Models of a multiclass label, and the CNN: shapes, losses, that they learn, and rows apart."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from jobs.base.errors import ConfigError
from jobs.batch.batch import Batch
from jobs.models.build import MODELS, build_model, predict, row_losses
from jobs.settings.train import TrainSettings
from jobs.train.exchange.exchange import Alone
from jobs.train.step.step import Step
from tests.builders.batches import SPEC, batch_of

CLASSES = 3
SPEC_3 = replace(SPEC, task="multiclass", classes=CLASSES)
SHAPES = {"grey": (9, 6), "colour": (5, 4, 3)}


def classes_of(rows: int, shape: tuple[int, ...] = SHAPES["grey"]) -> Batch:
    """Rows whose class shows in their id and in the brightness of their image."""
    batch = batch_of(rows, seed=3, spec=SPEC_3)
    label = batch.sparse[:, 1] % CLASSES
    g = torch.Generator().manual_seed(3)
    noise = torch.randint(0, 40, (rows, *shape), generator=g)
    image = (noise + 80 * label.view(-1, *[1] * len(shape))).to(torch.uint8)
    return replace(batch, label=label.float(), tensors={"image": image})


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_model_learns_classes(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(name, replace(SPEC_3, tensor_shapes={"image": SHAPES["grey"]}))
    batch = classes_of(96)
    step = Step(model, TrainSettings(learning_rate=0.05), Alone())

    for _ in range(20):
        step.run(batch)

    probabilities = predict(model, batch)
    assert probabilities.shape == (96, CLASSES)
    assert torch.allclose(probabilities.sum(dim=1), torch.ones(96))
    assert (probabilities.argmax(dim=1) == batch.label).double().mean() > 0.9


def test_the_loss_is_minus_the_logarithm_of_the_own_class() -> None:
    model, batch = build_model("mlp", SPEC_3), classes_of(40)

    losses = row_losses(model(batch), batch, "multiclass")

    own = predict(model, batch).gather(1, batch.label.long()[:, None])[:, 0]
    assert torch.allclose(losses, -own.log(), atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_cnn_sees_each_row_by_itself(shape: tuple[int, ...]) -> None:
    model = build_model("cnn", replace(SPEC_3, tensor_shapes={"image": shape}))
    batch = classes_of(8, shape)

    together = model(batch)

    alone = torch.cat([model(batch[row : row + 1]) for row in range(8)])
    assert torch.allclose(together, alone, atol=1e-6)
    assert together.std(dim=0).min() > 0


def test_the_cnn_needs_one_image() -> None:
    with pytest.raises(ConfigError, match="'cnn' finds 0 images"):
        build_model("cnn", SPEC_3)
