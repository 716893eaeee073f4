"""A small training, without the job around it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jobs.lake import Examples
from jobs.settings import Settings
from jobs.train.models import ModelSpec
from jobs.train.rank import TrainJob
from tests.builders.examples import CLICKS

TRAIN = {"batch_rows": 256, "epochs": 3, "learning_rate": 0.01, "stall_s": 60}
# Two dates; 2,007 rows to train on (not a multiple of the batch), 520 to validate on.
PLACES = {
    ("2026-01-01", "train"): [[997, 1, 7], [500]],
    ("2026-01-02", "train"): [[251] * 2],
    ("2026-01-01", "val"): [[400, 120]],
}
TRAIN_ROWS = 2007


def job_of(examples: Examples, folder: Path | str, **train: Any) -> TrainJob:
    """Trains a small model on PLACES. `train` are settings."""
    settings = Settings.model_validate(
        {
            "schema": "tests.builders.examples:CLICKS",
            "lake": "unused",
            "etl": {"sources": {"clicks": "unused"}},
            "stream": {"streams": 16, "window_rows": 200},
            "train": {**TRAIN, **train},
        }
    )
    table_rows = tuple(10 * number + 1 for number, _ in enumerate(CLICKS.stored_columns()))
    spec = ModelSpec(
        dataset="clicks",
        declaration=CLICKS.digest,
        state="none",
        task="binary",
        means=(100.0, 100.0),
        stds=(50.0, 50.0),
        table_rows=table_rows[-4:-1],
        embedding_dims=(4, 4, 4),
        tensor_shapes={},
        hidden=(16,),
        dropout=settings.train.dropout,
    )
    return TrainJob(
        settings=settings,
        dataset=CLICKS,
        spec=spec,
        examples=examples,
        first_ds="2026-01-01",
        last_ds="2026-01-02",
        has_validation=True,
        folder=str(folder),
        terminal=False,
        id_maps={},
    )
