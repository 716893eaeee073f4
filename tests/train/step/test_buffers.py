"""A forward pass only reads: what it changes of the model would differ from rank to rank."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jobs.base.errors import ConfigError
from jobs.batch.batch import Batch
from jobs.models.build import Model
from jobs.models.spec import ModelSpec
from jobs.settings.train import TrainSettings
from jobs.train.exchange.exchange import Alone
from jobs.train.step.step import Step
from jobs.train.step.validation import validate
from tests.builders.batches import SPEC, batch_of

CPU = torch.device("cpu")


class Counts(nn.Module):
    """Counts in a buffer what it has seen."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.layer = nn.Linear(spec.num_dense, 1)
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("fixed", torch.ones(3))

    def forward(self, batch: Batch) -> Tensor:
        self.note(batch)
        return self.layer(batch.dense.nan_to_num()).squeeze(1)  # type: ignore[no-any-return]

    def note(self, batch: Batch) -> None:
        self.seen.add_(batch.rows)


class Replaces(Counts):
    def note(self, batch: Batch) -> None:
        self.seen = self.seen + batch.rows


class OnlyInTraining(Counts):
    def note(self, batch: Batch) -> None:
        if self.training:
            super().note(batch)


class Reads(Counts):
    def note(self, batch: Batch) -> None:
        self.fixed.sum()


@pytest.mark.parametrize("kind", [Counts, Replaces, OnlyInTraining])
def test_a_buffer_that_a_step_changes_is_refused_by_name(kind: Any) -> None:
    step = Step(Model(kind(SPEC), "binary"), TrainSettings(), Alone())
    with pytest.raises(ConfigError, match=r"forward pass changes its buffer net\.seen\n"):
        step.run(batch_of(16, seed=1))


@pytest.mark.parametrize("kind", [Counts, Replaces])
def test_a_buffer_that_validation_changes_is_refused_by_name(kind: Any) -> None:
    with pytest.raises(ConfigError, match=r"forward pass changes its buffer net\.seen\n"):
        validate(Model(kind(SPEC), "binary"), CPU, [batch_of(16, seed=1)], Alone())


@pytest.mark.parametrize("kind", [Reads])
def test_buffers_that_are_read_are_fine(kind: Any) -> None:
    model = Model(kind(SPEC), "binary")
    step = Step(model, TrainSettings(), Alone())
    for seed in range(3):
        step.run(batch_of(16, seed=seed))
        model.load_state_dict(model.state_dict())
        assert math.isfinite(validate(model, CPU, [batch_of(16, seed=9)], Alone()).loss)
