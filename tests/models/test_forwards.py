"""Models whose forward pass changes them are refused: ranks would part without a word."""

from __future__ import annotations

import pytest
from torch import Tensor, nn

from jobs.base.errors import ConfigError
from jobs.batch.batch import Batch
from jobs.models.build import build_model
from jobs.models.spec import ModelSpec
from tests.builders.batches import SPEC


class Net(nn.Module):
    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.part = self.made()

    def made(self) -> nn.Module:
        raise NotImplementedError

    def forward(self, batch: Batch) -> Tensor:
        return batch.dense[:, 0]


class Capped(Net):
    def made(self) -> nn.Module:
        return nn.Embedding(5, 2, max_norm=1.0)


class CappedBag(Net):
    def made(self) -> nn.Module:
        return nn.EmbeddingBag(5, 2, max_norm=1.0)


class Scaled(Net):
    def made(self) -> nn.Module:
        return nn.Embedding(5, 2, scale_grad_by_freq=True)


class Tracking(Net):
    def made(self) -> nn.Module:
        return nn.InstanceNorm1d(3, track_running_stats=True)


class Untracked(Net):
    def made(self) -> nn.Module:
        return nn.InstanceNorm1d(3)


@pytest.mark.parametrize("kind", [Capped, CappedBag, Scaled, Tracking])
def test_a_forward_that_follows_from_more_than_its_rows_is_refused_by_name(kind: type[Net]) -> None:
    with pytest.raises(ConfigError, match=r"part"):
        build_model(f"{__name__}:{kind.__name__}", SPEC)


def test_statistics_of_a_row_alone_are_fine() -> None:
    assert build_model(f"{__name__}:Untracked", SPEC)
