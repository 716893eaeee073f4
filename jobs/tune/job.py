"""Tune: a study of trials finds settings of training; its winner is registered.

millstream tune --config conf/flights.yaml --parallel 2
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial

import fsspec
from pyspark.sql import SparkSession

from jobs.base.errors import ConfigError, DataRefused
from jobs.lake.lake import Lake
from jobs.lake.ledger import read_ledger, record
from jobs.lake.lock import StageLock, stage_lock
from jobs.registry.registry import Registry
from jobs.registry.version import ModelVersion, as_tag
from jobs.settings.settings import Settings
from jobs.train.attempts import refuse_unfit_job, remove_checkpoints
from jobs.train.job import register
from jobs.train.launch.rank_job import RankResult, TrainJob
from jobs.train.launch.ranks import refuse_without_horovod
from jobs.train.launch.tasks import refuse_too_few_slots, ship_code
from jobs.tune.search import STAGE, Search, search_of
from jobs.tune.shown import Shown, values_of
from jobs.tune.stopping import Stopping
from jobs.tune.study import Asked, Study
from jobs.tune.told import Told
from jobs.tune.trial import TrialResult, result_of, run_trial
from jobs.tune.trials import Budget, Trials, ledger_row

log = logging.getLogger("millstream.tune")


@dataclass(frozen=True)
class TuneResult:
    """A study that ended, or that a budget cut.

    Attributes:
        metric: its name.
        trials: of the whole study.
        told: those that ended, by number.
        best: of these; None where none has a value yet.
        version: of the winner's model; empty where the study has not ended.
        folder: of the study.
    """

    study: str
    metric: str
    trials: int
    told: tuple[Told, ...]
    best: Told | None
    version: str
    folder: str
    seconds: float

    @property
    def failed(self) -> int:
        """Trials that failed."""
        return sum(bool(one.failed) for one in self.told)

    @property
    def stopped(self) -> int:
        """Trials that were stopped at a rung."""
        return sum(one.stopped is not None for one in self.told)

    def summary(self) -> str:
        """One line: how many trials, the winner and its settings."""
        said = f"study {self.study}: {len(self.told)} of {self.trials} trials, {self.failed} failed"
        if self.stopped:
            said += f", {self.stopped} stopped early"
        if self.best is not None:
            said += (
                f"; best {self.metric} {self.best.value:.4f} by trial {self.best.number} "
                f"({values_of(self.best)})"
            )
        model = f"model version {self.version}" if self.version else "it goes on when run again"
        return f"{said}; {model}; written to {self.folder} in {self.seconds:.0f} s"


def run(
    settings: Settings,
    spark: SparkSession,
    *,
    run_id: str,
    name: str | None = None,
    parallel: int | None = None,
    last_ds: str | None = None,
    budget: Budget | None = None,
) -> TuneResult:
    """Runs the trials that a study lacks, and registers the winner.

    Args:
        name: of the study; the newest date's when None.
        parallel: trials at a time; `tune.parallel` when None.
        last_ds: no later date is used; open when None.
        budget: what this run may spend; the study goes on in another one. Endless when None.

    Raises:
        ConfigError: no space, or one that training cannot have; a study that exists with another;
            too few slots for the trials' ranks.
        DataRefused: no examples, none to validate with, or all trials failed.
        Locked: another search in this data set is at work.
    """
    started = time.monotonic()
    refuse_empty_space(settings)
    lake = Lake(settings.lake_url, settings.dataset().name)
    with stage_lock(lake, STAGE, run_id) as lock:
        search = search_of(settings, lake, name, last_ds)
        search = replace(search, base=replace(search.base, claim=lock.claim))
        at_a_time = parallel or settings.tune.parallel
        _refuse_unfit(search, spark, at_a_time)
        study = Study(search.folder, settings.tune, search.metric, search.facts())
        shown = Shown(search, study, run_id)
        stopping = Stopping.of(settings.tune, settings.train.epochs, search.epoch_rows)
        trials = Trials(
            *(search, study, stopping, spark),
            parallel=at_a_time,
            budget=budget or Budget(),
            told=shown.told,
            ended=partial(_after_generation, study, lock),
        )
        trials.run_all()
        version = ""
        if study.has_ended:
            version = _registered(search, study, spark, run_id).version
            lock.check()
            _remove_all_folders(search, study)
        shown.end(version)
    return TuneResult(
        search.name,
        search.metric[0],
        study.trials,
        tuple(study.told()),
        study.best(),
        version,
        search.folder,
        time.monotonic() - started,
    )


def refuse_empty_space(settings: Settings) -> None:
    """Raises ConfigError where there is nothing to search."""
    if not settings.tune.space:
        raise ConfigError(
            "tune.space is empty",
            "at least one setting of train, with values or a range",
            "add one, as in tune.space: {train.learning_rate: {low: 1.0e-4, high: 0.1, log: true}}",
        )


def _refuse_unfit(search: Search, spark: SparkSession, parallel: int) -> None:
    """Refuses what trials would, and ranks that Spark cannot run, before any trial."""
    settings = search.base.settings
    tried = [search.job(Asked(0, {f"train.{key}": value})) for key, value in settings.tune.tried()]
    needs = [need for need in map(refuse_unfit_job, tried) if need is not None]
    if needs:
        most = max(needs, key=lambda need: need.total)
        log.info("a rank of a trial may take %s", most.text())
    ship_code(spark)
    ranks = settings.tune.ranks_per_trial
    if ranks > 1:
        refuse_without_horovod(ranks)
        refuse_too_few_slots(
            spark,
            ranks * parallel,
            settings.train.start_timeout_s,
            "tune.ranks_per_trial times the trials at a time",
        )


def _after_generation(study: Study, lock: StageLock) -> None:
    lock.check()
    best = study.best()
    _remove_folders(one for one in study.told() if best is None or one.number != best.number)


def _remove_folders(ended: Iterable[Told]) -> None:
    for one in ended:
        if one.folder:
            remove_checkpoints(one.folder)


def _remove_all_folders(search: Search, study: Study) -> None:
    _remove_folders(study.told())
    best = study.best()
    if search.base.settings.tune.retrain and best is not None:
        remove_checkpoints(_retraining(search, best).folder)


def _registered(search: Search, study: Study, spark: SparkSession, run_id: str) -> ModelVersion:
    """The winner's model in the registry, where it is once.

    Raises:
        DataRefused: there is no winner.
    """
    told, best = study.told(), study.best()
    if best is None:
        failed = [one.failed for one in told if one.failed]
        raise DataRefused(
            f"no trial of study {search.name!r} went to its end: {len(told) - len(failed)} were "
            f"stopped early, and {len(failed)} failed, the last: {failed[-1]}",
            "at least one that trains to its end",
            "narrow tune.space, and begin another study: --study NAME; or raise tune.trials",
        )
    retrain = search.base.settings.tune.retrain
    tags = {
        "study": search.name,
        "trial": str(best.number),
        "trial_weights": best.facts["weights"],
    }
    known = Registry(search.base.settings, search.lake).versions()
    known = [one for one in known if ("retrained" in one.tags) == retrain]
    if found := [one for one in known if tags.items() <= one.tags.items()]:
        return found[0]
    if retrain:
        tags["retrained"] = "true"
    job, trained = (_retrained if retrain else _as_trained)(search, best, spark)
    space = search.base.settings.tune.model_dump(mode="json")["space"]
    return register(search.lake, job, search.state, trained, run_id, **tags, space=as_tag(space))


def _as_trained(search: Search, best: Told, spark: SparkSession) -> tuple[TrainJob, RankResult]:
    """The winner as it was; where its files are gone it is run again, to the same end.

    They go when a model of the study is registered, as that of `tune.retrain`.
    """
    job = search.job(Asked(best.number, best.params))
    fs, folder = fsspec.core.url_to_fs(job.best_folder(best.facts["best_epoch"]))
    if fs.exists(folder):
        return job, result_of(job, best.facts)
    log.info("trial %d is run again: its model was removed", best.number)
    return job, _model_of(run_trial(spark, job), best, "begin another study: --study NAME")


def _retraining(search: Search, best: Told) -> TrainJob:
    return search.retraining(Asked(best.number, best.params), best.facts["best_epoch"] + 1)


def _retrained(search: Search, best: Told, spark: SparkSession) -> tuple[TrainJob, RankResult]:
    """The winner, trained again for as many epochs as its best model had."""
    job = _retraining(search, best)
    log.info("trial %d is trained again, on the validation rows, too", best.number)
    result = run_trial(spark, job)
    remedy = "run it again with tune.retrain: false, which takes the trial's model"
    trained = _model_of(result, best, remedy)
    if not any(row["run"] == search.retrained for row in read_ledger(search.lake, stage=STAGE)):
        ended = replace(result, trained=replace(trained, rung=None))
        record(search.lake, [ledger_row(search, search.retrained, ended.facts())])
    return job, trained


def _model_of(result: TrialResult, best: Told, remedy: str) -> RankResult:
    """What a trial that was trained again came to.

    Raises:
        DataRefused: it failed.
    """
    if result.trained is None:
        raise DataRefused(
            f"trial {best.number}, trained again, failed: {result.failed}",
            "a training that succeeds as the trial did",
            remedy,
        )
    return result.trained
