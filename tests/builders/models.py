"""Registered models without a training: fresh weights on the state of a lake."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor, nn

from jobs.batch.batch import Batch
from jobs.batch.layout import batch_from_arrow
from jobs.lake.examples import Examples
from jobs.lake.lake import Lake
from jobs.lake.state import load_state
from jobs.models.artifact import load_model, save_model
from jobs.models.build import Model, build_model, predict
from jobs.models.spec import ModelSpec
from jobs.registry.registry import Registry
from jobs.settings.settings import Settings

CURVES = ({"train_loss": 0.7, "val_loss": 0.69}, {"train_loss": 0.6, "val_loss": 0.62})


class OwnTable(nn.Module):
    """A user's own model: one value for each id of the second field."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.table = nn.Embedding(spec.table_rows[1], 1)

    def forward(self, batch: Batch) -> Tensor:
        """Logits [B]."""
        logits: Tensor = self.table(batch.sparse[:, 1]).squeeze(1)
        return logits


def lake_of(settings: Settings) -> Lake:
    return Lake(settings.lake_url, settings.dataset().name)


def register_model(
    settings: Settings,
    as_of: str,
    *,
    seed: int = 0,
    change: Callable[[Model], None] | None = None,
) -> str:
    """Registers a model with random weights, built on the state as of a date.

    Args:
        change: edits the model before it is saved.
    """
    lake, dataset = lake_of(settings), settings.dataset()
    examples = Examples.open(lake.table("examples").url)
    state = load_state(lake, examples.info["states"][as_of])
    spec = ModelSpec.of(dataset, state, settings.train)
    torch.manual_seed(seed)
    model = build_model(settings.train.model, spec, settings.base)
    with torch.no_grad():
        for weights in model.parameters():
            # Fresh embeddings are near zero, where a wrong id would go unnoticed.
            weights.normal_(0, 0.5)
        if change is not None:
            change(model)
    folder = str(Path(lake.folder("checkpoints", f"made-{as_of}-{seed}")))
    save_model(folder, model, settings.train.model, spec, {"base": settings.base})
    tags = {
        "run_id": f"train-{seed}",
        "state_digest": state.digest,
        "examples_version": str(examples.version),
        "declaration": dataset.digest,
        "dates": f"{min(examples.info['states'])}..{as_of}",
        "fingerprint": json.dumps({"seed": seed}),
        "settings": settings.model_dump_json(by_alias=True),
    }
    return Registry(settings, lake).register(folder, CURVES, tags, {"seed": seed})


def scores_of(settings: Settings, version: str, rows: pd.DataFrame) -> np.ndarray:
    """Scores of encoded rows, computed here as training's own evaluation does."""
    dataset = settings.dataset()
    found = Registry(settings, lake_of(settings)).resolve(version)
    columns = [column.name for column in dataset.stored_columns()]
    batch = batch_from_arrow(
        pa.Table.from_pandas(rows[columns], preserve_index=False), dataset, with_label=False
    )
    return predict(load_model(found.folder_url).model, batch).numpy()
