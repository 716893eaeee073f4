"""Tune: a study of trials finds settings of training; its winner is registered.

millstream tune --config conf/flights.yaml --parallel 2
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

from pyspark.sql import SparkSession

from jobs.base.errors import ConfigError, DataRefused
from jobs.lake.lake import Lake
from jobs.lake.ledger import LedgerRow, read_ledger, record
from jobs.lake.lock import stage_lock
from jobs.registry.registry import Registry
from jobs.registry.version import ModelVersion
from jobs.settings.settings import Settings
from jobs.train.attempts import refuse_unfit_job, remove_checkpoints
from jobs.train.job import register
from jobs.train.launch.tasks import ship_code
from jobs.tune.search import STAGE, Search, search_of
from jobs.tune.study import Asked, Study, Told
from jobs.tune.trial import TrialResult, result_of, run_trial

log = logging.getLogger("millstream.tune")


@dataclass(frozen=True)
class TuneResult:
    """A study that ended.

    Attributes:
        metric: its name.
        told: its trials, by number.
        best: its winner.
        version: of the winner's model.
        folder: of the study.
    """

    study: str
    metric: str
    told: tuple[Told, ...]
    best: Told
    version: str
    folder: str
    seconds: float

    @property
    def failed(self) -> int:
        """Trials that failed."""
        return sum(one.value is None for one in self.told)

    def summary(self) -> str:
        """One line: how many trials, the winner and its settings."""
        values = ", ".join(f"{name}={value}" for name, value in self.best.params.items())
        return (
            f"study {self.study}: {len(self.told)} trials, {self.failed} failed; best "
            f"{self.metric} {self.best.value:.4f} by trial {self.best.number} ({values}), model "
            f"version {self.version}; written to {self.folder} in {self.seconds:.0f} s"
        )


def run(
    settings: Settings,
    spark: SparkSession,
    *,
    run_id: str,
    name: str | None = None,
    parallel: int | None = None,
    last_ds: str | None = None,
) -> TuneResult:
    """Runs the trials that a study lacks, and registers the winner.

    Args:
        name: of the study; the newest date's when None.
        parallel: trials at a time; `tune.parallel` when None.
        last_ds: no later date is used; open when None.

    Raises:
        ConfigError: no space, or one that training cannot have; a study that exists with another.
        DataRefused: no examples, none to validate with, or all trials failed.
        Locked: another search in this data set is at work.
    """
    started = time.monotonic()
    if not settings.tune.space:
        raise ConfigError(
            "tune.space is empty",
            "at least one setting of train, with values or a range",
            "add one, as in tune.space: {train.learning_rate: {low: 1.0e-4, high: 0.1, log: true}}",
        )
    lake = Lake(settings.lake_url, settings.dataset().name)
    with stage_lock(lake, STAGE, run_id) as lock:
        search = search_of(settings, lake, name, last_ds)
        search = replace(search, base=replace(search.base, claim=lock.claim))
        for key, value in settings.tune.tried():
            refuse_unfit_job(search.job(Asked(0, {f"train.{key}": value})))
        study = Study(search.folder, settings.tune, search.metric, search.facts())
        ship_code(spark)
        while asked := study.generation():
            _run_generation(search, study, asked, spark, parallel or settings.tune.parallel)
            lock.check()
            _remove_folders(one for one in study.told() if one != study.best())
        result = _registered(search, study, run_id)
        lock.check()
        _remove_folders(study.told())
    return replace(result, seconds=time.monotonic() - started)


def _run_generation(
    search: Search, study: Study, asked: Sequence[Asked], spark: SparkSession, parallel: int
) -> None:
    """Runs trials, `parallel` at a time, and tells of them in the order of their numbers."""
    recorded = {row["run"] for row in read_ledger(search.lake, stage=STAGE)}
    with ThreadPoolExecutor(parallel, "trial") as threads:
        results = threads.map(partial(_run, search, spark), asked)
        for one, (result, folder) in zip(asked, results, strict=True):
            if search.run(one.number) not in recorded:
                record(search.lake, [_ledger_row(search, one, result)])
            facts = {"params": one.params, "folder": folder, **result.facts()}
            study.tell(one, _value(search, result), facts, result.failed)
            log.info("%s", _line(study, study.told()[-1]))


def _run(search: Search, spark: SparkSession, asked: Asked) -> tuple[TrialResult, str]:
    """A trial's result and its folder. Settings that do not go together are a result, too."""
    try:
        job = search.job(asked)
    except ConfigError as error:
        return TrialResult(None, str(error), 0.0), ""
    return run_trial(spark, job), job.folder


def _value(search: Search, result: TrialResult) -> float | None:
    if result.trained is None:
        return None
    best = result.trained.history.best
    return best.metrics().get(search.metric[0]) if best is not None else None


def _line(study: Study, told: Told) -> str:
    best = study.best()
    values = ", ".join(f"{name}={value}" for name, value in told.params.items())
    found = f"failed: {told.failed}" if told.value is None else f"{told.value:.4f}"
    so_far = f"; best {best.value:.4f}, trial {best.number}" if best is not None else ""
    return f"trial {told.number + 1} of {study.trials}: {found} ({values}){so_far}"


def _ledger_row(search: Search, asked: Asked, result: TrialResult) -> LedgerRow:
    base, trained = search.base, result.trained
    epochs = trained.history.epochs if trained is not None else []
    best = trained.history.best if trained is not None else None
    return LedgerRow(
        run=search.run(asked.number),
        stage=STAGE,
        ds=base.last_ds,
        status="done" if trained is not None else "refused",
        counts={"rows": sum(epoch.rows for epoch in epochs), "epochs": len(epochs)},
        digests={"weights": trained.digest or "", "state": search.state.digest} if trained else {},
        versions={"examples": str(base.examples.version), "study": search.name},
        metrics=best.metrics() if best is not None else {},
        seconds=result.seconds,
        message=result.failed,
    )


def _remove_folders(ended: Iterable[Told]) -> None:
    for one in ended:
        if one.folder:
            remove_checkpoints(one.folder)


def _registered(search: Search, study: Study, run_id: str) -> TuneResult:
    """The winner's model in the registry, where it is once."""
    told, best = study.told(), study.best()
    if best is None:
        raise DataRefused(
            f"all {len(told)} trials of study {search.name!r} failed, the last: {told[-1].failed}",
            "at least one that trains",
            "narrow tune.space, and begin another study: --study NAME",
        )
    job = search.job(Asked(best.number, best.params))
    version = _version_of(search, best) or register(
        search.lake,
        job,
        search.state,
        result_of(job, best.facts),
        run_id,
        study=search.name,
        trial=str(best.number),
    )
    return TuneResult(
        search.name, search.metric[0], tuple(told), best, version.version, search.folder, 0.0
    )


def _version_of(search: Search, best: Told) -> ModelVersion | None:
    """The version that a run which was cut short, or this study's last one, registered."""
    wanted = {"study": search.name, "trial": str(best.number)}
    versions = Registry(search.base.settings, search.lake).versions()
    same = [one for one in versions if wanted.items() <= one.tags.items()]
    return next((one for one in same if one.tags["weights_digest"] == best.facts["weights"]), None)
