"""A rank's memory is added up before anything starts, and what does not fit is refused with it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from jobs.base.errors import ConfigError
from jobs.models.build import build_model
from jobs.settings.etl import EtlSettings
from jobs.settings.settings import Settings
from jobs.train.need import MemoryNeed
from tests.builders.batches import SPEC

# A table of 10^6 rows of 16, and small ones.
LARGE = replace(SPEC, table_rows=(7, 1_000_000, 5), embedding_dims=(16, 16, 16))


def settings_of(**train: object) -> Settings:
    whole = Settings(declaration="schemas.flights:FLIGHTS", lake="l", etl=EtlSettings(sources={}))
    return whole.model_copy(update={"train": whole.train.model_copy(update=train)})


def need_of(settings: Settings) -> MemoryNeed:
    with torch.device("meta"):
        return MemoryNeed.of(build_model("mlp", LARGE), settings)


@pytest.mark.parametrize(("optimizer", "moments"), [("sgd", 0), ("adagrad", 1), ("adam", 2)])
def test_the_sum_is_that_of_the_documentation(optimizer: str, moments: int) -> None:
    need = need_of(settings_of(optimizer=optimizer))
    assert need.tables == 4 * 16 * (1_000_000 + 7 + 5 - 2)
    state = need.weights * (1 + moments)
    beside = (2_048 << 20) + (1 << 30)
    assert need.total == 4 * state + 2 * need.weights * max(1, moments) + beside


def test_a_model_that_does_not_fit_is_refused_with_the_sum() -> None:
    need = need_of(settings_of())
    enough = -(-need.total >> 20)
    need.refuse_excess(settings_of())
    need.refuse_excess(settings_of(memory_mb=enough))
    with pytest.raises(ConfigError, match=rf"{62} \(tables\).*= {enough:,} MB") as refused:
        need.refuse_excess(settings_of(memory_mb=enough - 1))
    assert "train.memory_mb" in (refused.value.expected or "")
