"""The models of those epochs that were the best so far, in the run's folder."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import fsspec

from jobs.models.artifact import Cut, save_weights
from jobs.models.folder import CARD
from jobs.models.spec import ModelSpec
from jobs.models.tables.pieces import StoredTable
from jobs.settings.settings import Settings
from jobs.train.keep.snapshot import Snapshot
from jobs.train.step.moments import moments_of


def best_folder(run_folder: str, epoch: int) -> str:
    """The folder of an epoch's model."""
    return f"{run_folder}/best-{epoch:06d}"


def has_best(run_folder: str, epoch: int) -> bool:
    """Whether the model of an epoch is there, complete."""
    fs, path = fsspec.core.url_to_fs(best_folder(run_folder, epoch))
    return bool(fs.exists(f"{path}/{CARD}"))


def save_best(
    run_folder: str,
    snapshot: Snapshot,
    names: Mapping[str, str],
    source: str,
    tables: Collection[str],
    spec: ModelSpec,
    settings: Settings,
    stored: Sequence[StoredTable] = (),
) -> None:
    """Saves the model of the best epoch so far, and removes those that nothing needs any more.

    A checkpoint names the best epoch before it. Of the models before this one, as many stay as
    checkpoints are kept.

    Args:
        snapshot: taken after that epoch.
        names: see `parameter_names`.
        source: of the model.
        tables: see `mappable_tables`.
        stored: sharded tables and their moments, whose files are in the model's folder already.
    """
    train, result = settings.train, snapshot.position.history.best
    assert result is not None
    card = {"base": settings.base, "epoch": result.epoch, "optimizer": train.optimizer}
    moments = moments_of(snapshot.optimizer, names) if train.keeps_moments else None
    folder = best_folder(run_folder, result.epoch)
    cut = Cut(tables, train.map_tables_mb << 20, train.table_buckets)
    save_weights(folder, snapshot.weights, train.model, spec, source, card, moments, cut, stored)
    fs, root = fsspec.core.url_to_fs(run_folder)
    # Those of later epochs are of a training that this one repeats from an older checkpoint.
    _, own = fsspec.core.url_to_fs(folder)
    best = [path for path in sorted(fs.glob(f"{root}/best-??????")) if path <= own]
    for path in best[: -1 - train.checkpoint_keep]:
        fs.rm(path, recursive=True)
