"""Training: the examples of some dates become a registered model.

    spark-submit --properties-file conf/spark/local.conf jobs/train/job.py \\
        --config conf/flights.yaml --workers 2
"""

from __future__ import annotations

import datetime as dt
import logging
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem
from pyspark.sql import SparkSession

from jobs.base.code import code_commit, code_digest
from jobs.base.command import run_command
from jobs.base.errors import ConfigError, DataRefused
from jobs.etl.encode.encoder import id_map
from jobs.lake.declaration import refuse_changed_declaration
from jobs.lake.examples import Examples
from jobs.lake.lake import Lake
from jobs.lake.ledger import LedgerRow, record
from jobs.lake.lock import stage_lock
from jobs.lake.state import State, load_state
from jobs.models.spec import ModelSpec
from jobs.registry.registry import Registry
from jobs.registry.version import ModelVersion, as_tag
from jobs.settings.redact import without_users
from jobs.settings.settings import Settings
from jobs.train.attempts import (
    choose_tables,
    refuse_unfit_job,
    remove_checkpoints,
    resumed,
    trained,
)
from jobs.train.launch.rank_job import RankResult, TrainJob
from jobs.train.read.id_maps import IdMaps
from jobs.train.result import TrainResult
from jobs.train.step.history import History
from jobs.train.warm.source import find_source
from jobs.train.watch.progress import Console, relayed
from schemas.dataset import Dataset

log = logging.getLogger("millstream.train")


def run(
    settings: Settings,
    spark: SparkSession,
    *,
    run_id: str,
    workers: int | None = None,
    last_ds: str | None = None,
    resume: str = "auto",
) -> TrainResult:
    """Trains on the newest dates and registers the best epoch's model.

    Args:
        workers: ranks; `train.workers` when None.
        last_ds: no later date is used; open when None.
        resume: `auto` goes on with an unfinished run that fits, `never` starts anew; or the name
            of a run to go on with.

    Raises:
        DataRefused: no examples, none in the dates, or made with another declaration; a named
            run that does not fit.
        ConfigError: a setting that does not fit the data or the cluster.
        RankFailed: a rank was lost; the message names it.
        Locked: another training of this data set is at work.
    """
    started = time.monotonic()
    if workers is not None:
        train = settings.train.model_copy(update={"workers": workers})
        settings = settings.model_copy(update={"train": train})
    dataset = settings.dataset()
    lake = Lake(settings.lake_url, dataset.name)
    with stage_lock(lake, "train", run_id) as lock:
        examples = Examples.open(lake.table("examples").url)
        dates = select_dates(examples, dataset, settings.train.window_days, last_ds)
        state = load_state(lake, examples.info["states"][dates[-1]])
        fresh = job_of(settings, lake, examples, dates, state, run_id)
        fresh = replace(fresh, claim=lock.claim)
        job = resumed(fresh, lake, resume, partial(started_from, fresh, lake, state))
        if (need := refuse_unfit_job(job)) is not None:
            log.info("a rank %s may take %s", need.title, need.text())
        with relayed(job.folder, Console(job.terminal)):
            first = min(trained(job, spark), key=lambda result: result.rank)
        lock.check()
        version = register(lake, job, state, first, run_id)
        result = _result(run_id, version, dates, first, time.monotonic() - started)
        record(lake, [_ledger_row(result, job.examples, state)])
        lock.check()
        remove_checkpoints(job.folder)
    return result


def select_dates(
    examples: Examples, dataset: Dataset, window_days: int | None, last_ds: str | None
) -> list[str]:
    """The dates to train on, in order: the newest up to `last_ds`, `window_days` of the calendar.

    Raises:
        DataRefused: there are none, or they were made with another declaration.
    """
    refuse_changed_declaration(examples.info, dataset, "the examples were")
    dates = sorted(ds for ds in examples.info["states"] if last_ds is None or ds <= last_ds)
    if not dates:
        raise DataRefused(
            f"{examples.url} has no date" + (f" up to {last_ds}" if last_ds else ""),
            "at least one date with examples",
            "run `millstream etl` for the dates first",
        )
    if window_days is None:
        return dates
    first = dt.date.fromisoformat(dates[-1]) - dt.timedelta(window_days - 1)
    return [ds for ds in dates if ds >= str(first)]


def job_of(
    settings: Settings,
    lake: Lake,
    examples: Examples,
    dates: list[str],
    state: State,
    run_id: str,
) -> TrainJob:
    """A training on dates of these examples, from its beginning.

    Raises:
        DataRefused: there are no rows to train on; see `started_from`.
        ConfigError: stopping early is asked for, and there is nothing to validate with.
    """
    dataset = settings.dataset()
    rows = {
        split: sum(shard.rows for shard in examples.shards(split, dates[0], dates[-1]))
        for split in ("train", "val")
    }
    if not rows["train"]:
        raise DataRefused(f"{dates[0]}..{dates[-1]} has no rows in split 'train'", "some")
    if settings.train.early_stop_epochs and not rows["val"]:
        raise ConfigError(
            "train.early_stop_epochs is set, but split 'val' has no rows",
            remedy="raise etl.split.val, or leave early_stop_epochs empty",
        )
    job = TrainJob(
        settings=settings,
        dataset=dataset,
        spec=ModelSpec.of(dataset, state, settings.train),
        examples=examples,
        first_ds=dates[0],
        last_ds=dates[-1],
        has_validation=rows["val"] > 0,
        folder=lake.folder("checkpoints", run_id),
        terminal=sys.stderr.isatty(),
        id_maps=_id_maps(lake, dataset, examples, dates, state),
        curves=_curves(settings, lake, run_id),
    )
    return choose_tables(started_from(job, lake, state, settings.train.warm_start))


def started_from(job: TrainJob, lake: Lake, state: State, name: str | None) -> TrainJob:
    """The job, starting from the weights of a model; from fresh ones when None.

    Args:
        name: see `find_source`.

    Raises:
        DataRefused, ConfigError: see `find_source` and `WarmStart.spec`.
    """
    settings = job.settings
    spec = ModelSpec.of(job.dataset, state, settings.train)
    source = find_source(settings, lake, job.examples, state, name)
    return replace(
        job,
        spec=source.spec(spec, settings.train.model) if source else spec,
        warm_start=source,
    )


def _curves(settings: Settings, lake: Lake, run_id: str) -> str | None:
    """TensorBoard's writer knows other stores than ours do: curves are for lakes on a disk."""
    folder = lake.folder("curves", run_id)
    local = isinstance(fsspec.core.url_to_fs(folder)[0], LocalFileSystem)
    return folder if settings.train.curves and local else None


def _id_maps(
    lake: Lake,
    dataset: Dataset,
    examples: Examples,
    dates: list[str],
    state: State,
) -> IdMaps:
    """What the ids that the newest date's state lacks become.

    It lacks those of an older date that was made, or made again, after it. Ids only grow, so the
    tables' sizes tell.
    """
    digests = sorted({examples.info["states"][ds] for ds in dates})
    with ThreadPoolExecutor(16) as threads:
        others = threads.map(partial(load_state, lake), digests)
        known = state.vocabulary
        if not any(other.vocabulary[f].rows > known[f].rows for other in others for f in known):
            return {}
    return id_map(lake, dataset, state, examples.info["versions"]["id_log"])


def register(
    lake: Lake,
    job: TrainJob,
    state: State,
    trained: RankResult,
    run_id: str,
    **more: str,
) -> ModelVersion:
    """Registers the best epoch's model of a training; `more` are further tags."""
    settings = job.settings
    tags = {
        "run_id": run_id,
        "state_digest": state.digest,
        "examples_version": str(job.examples.version),
        "declaration": job.dataset.digest,
        "dates": f"{job.first_ds}..{job.last_ds}",
        "fingerprint": as_tag(trained.fingerprint),
        "settings": without_users(settings.model_dump_json(by_alias=True)),
        "code": code_digest(),
        "commit": code_commit(),
        **more,
    }
    if job.warm_start is not None:
        tags["warm_start"] = job.warm_start.version
    sections = {"train": settings.train, "stream": settings.stream}
    params: dict[str, Any] = {
        f"{name}.{key}": value
        for name, section in sections.items()
        for key, value in section.model_dump().items()
    }
    curves = [epoch.metrics() for epoch in trained.history.epochs]
    assert trained.history.best is not None
    best = job.best_folder(trained.history.best.epoch)
    registry = Registry(settings, lake)
    return registry.resolve(registry.register(best, curves, tags, params))


def _result(
    run_id: str,
    version: ModelVersion,
    dates: list[str],
    trained: RankResult,
    seconds: float,
) -> TrainResult:
    history: History = trained.history
    assert trained.digest is not None and history.best is not None
    return TrainResult(
        run=run_id,
        version=version.version,
        folder=version.folder_url,
        digest=trained.digest,
        dates=(dates[0], dates[-1]),
        history=tuple(history.epochs),
        best=history.best,
        seconds=seconds,
    )


def _ledger_row(result: TrainResult, examples: Examples, state: State) -> LedgerRow:
    return LedgerRow(
        run=result.run,
        stage="train",
        ds=result.dates[1],
        status="done",
        counts={"rows": result.best.rows, "epochs": len(result.history)},
        digests={"weights": result.digest, "state": state.digest},
        versions={"examples": str(examples.version), "model": result.version},
        metrics=result.best.metrics(),
        seconds=result.seconds,
    )


if __name__ == "__main__":
    run_command("train")
