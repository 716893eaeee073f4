"""What the trials of a study share: the data, the settings around the space, the folders."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from jobs.base.code import digest_of
from jobs.base.errors import DataRefused
from jobs.lake.examples import Examples
from jobs.lake.lake import Lake
from jobs.lake.state import State, load_state
from jobs.registry.registry import Registry
from jobs.registry.version import CHAMPION, as_tag
from jobs.settings.settings import Settings
from jobs.settings.train import RUN_SETTINGS
from jobs.train.job import job_of, select_dates, started_from
from jobs.train.keep.resume import TRIALS
from jobs.train.launch.rank_job import TrainJob
from jobs.tune.study import Asked, known_facts

STAGE = "tune"


@dataclass(frozen=True)
class Search:
    """What the trials of a study share.

    Attributes:
        base: a training with the settings as they are.
        sources: models that trainings may start from, by name, as their versions were when the
            study was begun.
    """

    name: str
    lake: Lake
    state: State
    base: TrainJob
    sources: Mapping[str, str | None]

    @property
    def folder(self) -> str:
        return self.lake.folder("studies", self.name)

    @property
    def metric(self) -> tuple[str, bool]:
        """Name of what trials are compared by, and whether more of it is better."""
        binary = self.base.dataset.label.task == "binary"
        by_auc = self.base.settings.train.best_by == "auc" and binary
        return ("val_auc", True) if by_auc else ("val_loss", False)

    def facts(self) -> dict[str, Any]:
        """What results follow from besides the settings of the search, as a tree for JSON."""
        identity = dict(self.base.identity)
        train = {
            key: value for key, value in identity.pop("train").items() if key not in RUN_SETTINGS
        }
        dates = [self.base.first_ds, self.base.last_ds]
        tree = {**identity, "train": train, "dates": dates, "sources": self.sources}
        return {key: json.loads(as_tag(value)) for key, value in tree.items()}

    def job(self, asked: Asked) -> TrainJob:
        """The training of a trial, in a folder that is named by all that it follows from.

        Raises:
            ConfigError: training cannot have these settings together.
        """
        params = {name.removeprefix("train."): value for name, value in asked.params.items()}
        ranks = self.base.settings.tune.ranks_per_trial
        settings = self.base.settings.with_train({**params, "workers": ranks})
        settings = _pinned(settings, self.sources)
        job = replace(self.base, settings=settings, curves=None, terminal=False, in_task=True)
        job = started_from(job, self.lake, self.state, settings.train.warm_start)
        return self._in_folder(job, self.run(asked.number))

    def retraining(self, asked: Asked, epochs: int) -> TrainJob:
        """The training of a trial again, for so many epochs on training and validation rows.

        Its learning rates are those of a whole training, as the trial's were.
        """
        job = replace(self.job(asked), has_validation=False, with_validation=True)
        rows = sum(shard.rows for shard in job.train_shards)
        return self._in_folder(replace(job, until_rows=epochs * rows), self.retrained)

    def _in_folder(self, job: TrainJob, run: str) -> TrainJob:
        folder = f"{run}-{digest_of(as_tag(job.identity))}"
        return replace(job, folder=self.lake.folder("checkpoints", folder))

    @property
    def epoch_rows(self) -> int:
        """Rows of an epoch of a training."""
        return sum(shard.rows for shard in self.base.train_shards)

    @property
    def retrained(self) -> str:
        """Name of the winner's second training in the ledger."""
        return f"{TRIALS}{self.name}-retrained"

    def run(self, number: int) -> str:
        """Name of a trial in the ledger."""
        return f"{TRIALS}{self.name}-{number:04d}"


def search_of(settings: Settings, lake: Lake, name: str | None, last_ds: str | None) -> Search:
    """The study of this name, on the examples that it was begun with.

    Args:
        name: the newest date's when None.
        last_ds: no later date is used; open when None.

    Raises:
        DataRefused: no examples, or none to compare trials by.
    """
    examples, dataset = Examples.open(lake.table("examples").url), settings.dataset()
    window = settings.train.window_days
    name = name or select_dates(examples, dataset, window, last_ds)[-1]
    known = known_facts(lake.folder("studies", name))
    sources = known.get("sources", {}) if known else _sources(settings, lake)
    settings = _pinned(settings, sources)
    if known:
        examples = Examples.open(examples.url, known["examples_version"])
        last_ds = known["dates"][1]
    dates = select_dates(examples, dataset, window, last_ds)
    state = load_state(lake, examples.info["states"][dates[-1]])
    base = job_of(settings, lake, examples, dates, state, f"{STAGE}-{name}")
    if not base.has_validation:
        raise DataRefused(
            f"{dates[0]}..{dates[-1]} has no rows in split 'val'",
            "some, by which trials are compared",
            "raise etl.split.val and make the dates again",
        )
    return Search(name, lake, state, base, sources)


def _sources(settings: Settings, lake: Lake) -> dict[str, str | None]:
    """Versions of the models that `train.warm_start` may name; None of a champion to come."""
    tried = [value for key, value in settings.tune.tried() if key == "warm_start"]
    names = {str(name) for name in (settings.train.warm_start, *tried) if name is not None}
    registry = Registry(settings, lake)
    found = {
        name: registry.champion() if name == CHAMPION else registry.resolve(name)
        for name in sorted(names)
    }
    return {name: version.version if version else None for name, version in found.items()}


def _pinned(settings: Settings, sources: Mapping[str, str | None]) -> Settings:
    """The settings with a version for a name that another model may have by the next trial."""
    source = settings.train.warm_start
    if source is None:
        return settings
    train = settings.train.model_copy(update={"warm_start": sources.get(source, source)})
    return settings.model_copy(update={"train": train})
