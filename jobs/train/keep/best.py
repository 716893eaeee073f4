"""The models of those epochs that were the best so far, in the run's folder."""

from __future__ import annotations

import fsspec

from jobs.models.artifact import save_model
from jobs.models.spec import ModelSpec
from jobs.settings.settings import Settings
from jobs.train.step.moments import moments_of
from jobs.train.step.step import Step


def best_folder(run_folder: str, epoch: int) -> str:
    """The folder of an epoch's model."""
    return f"{run_folder}/best-{epoch:06d}"


def save_best(run_folder: str, step: Step, spec: ModelSpec, settings: Settings, epoch: int) -> None:
    """Saves the model of the best epoch so far, and removes those that nothing needs any more.

    A checkpoint names the best epoch before it. Of the models before this one, as many stay as
    checkpoints are kept.
    """
    train = settings.train
    card = {"base": settings.base, "epoch": epoch, "optimizer": train.optimizer}
    # They are as large as the weights, so they are saved only where a warm start may need them.
    moments = moments_of(step) if train.warm_start is not None else None
    save_model(best_folder(run_folder, epoch), step.model, train.model, spec, card, moments)
    fs, root = fsspec.core.url_to_fs(run_folder)
    best = sorted(fs.glob(f"{root}/best-??????"))
    for path in best[: -1 - train.checkpoint_keep]:
        fs.rm(path, recursive=True)
