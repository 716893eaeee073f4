"""A sharded step is TorchRec's: the same weights after fifty of them, by the same optimizers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from jobs.models.build import build_model
from jobs.train.exchange.exchange import Alone
from jobs.train.step.step import Step
from jobs.train.tables.table import shard
from tests.builders.batches import SPEC, batch_of
from tests.builders.reference import settings_of
from tests.builders.sharded import part_of, weights_of_all
from tests.builders.torchrec_problems import torchrecs

# With rates that move all weights by much more than float32 rounds.
RATES = {"sgd": 2.0, "adagrad": 0.05, "row_adagrad": 0.05}
EQUAL = replace(SPEC, embedding_dims=(4, 4, 4), bottom_hidden=(6,))


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", sorted(RATES))
def test_fifty_steps_end_with_torchrecs_weights(optimizer: str, tmp_path: Path) -> None:
    settings = settings_of(
        optimizer=optimizer,
        learning_rate=RATES[optimizer],
        weight_decay=0.0,
        table_buckets=3,
        tables="sharded",
    )
    torch.manual_seed(1)
    model = build_model("dlrm", EQUAL, with_tables=False)
    tables = shard(model, settings, 0, 1, torch.device("cpu"))
    tables[0].fill(1)
    step = Step(model, settings, Alone(), tables)
    # Equal weights of rows, which TorchRec's loss has none for.
    made = [batch_of(40, seed, spec=EQUAL) for seed in range(50)]
    batches = [replace(batch, weight=torch.ones(40)) for batch in made]
    known = torchrecs(step, batches, optimizer, settings.learning_rate, tmp_path)
    before = weights_of_all([part_of(step)])
    for batch in batches:
        step.run(batch)
    found = weights_of_all([part_of(step)])
    assert found.keys() == known.weights.keys()
    for name, weight in found.items():
        apart, moved = weight - known.weights[name], weight - before[name]
        assert apart.abs().max() < 1e-5, name
        assert moved.abs().max() > 1e-3, name
