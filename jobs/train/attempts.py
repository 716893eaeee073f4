"""Resuming a training from a checkpoint, by the user's wish or because its ranks were lost.

And the end of that: a finished training leaves nothing to resume.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import fsspec
import torch
from pyspark.sql import SparkSession
from torch.overrides import TorchFunctionMode

from jobs.base.errors import MillstreamError
from jobs.lake.examples import Examples
from jobs.lake.lake import Lake
from jobs.models.build import build_model
from jobs.train.exchange.exchange import Exchange
from jobs.train.keep.checkpoint import listed
from jobs.train.keep.commits import RankMemory
from jobs.train.keep.resume import newest_of_run, select
from jobs.train.launch.failures import RankLost, forget
from jobs.train.launch.rank_job import RankResult, TrainJob
from jobs.train.launch.ranks import launch
from jobs.train.need import MemoryNeed
from jobs.train.rank import train_rank
from jobs.train.step.step import refuse_unfit
from jobs.train.tables.table import may_shard, refuse_ignored_places, shard

R = TypeVar("R")
log = logging.getLogger("millstream.train")


def resumed(
    job: TrainJob, lake: Lake, resume: str, started_from: Callable[[str | None], TrainJob]
) -> TrainJob:
    """The job, set to resume from the checkpoint that fits.

    It goes on with the version of the examples, and with the source of its weights, that the
    checkpoint names.

    Args:
        started_from: the same job, starting from the weights of the given model version.

    Raises:
        DataRefused: see `select`.
    """
    found = select(lake, resume, job.identity, lambda version: started_from(version).identity)
    if found is None:
        return job
    log.info("going on from checkpoint %s: %s", found.name, found.position.named())
    folder = found.url.rsplit("/", 1)[0]
    forget(folder)
    source, now = (of.get("warm_start") for of in (found.identity, job.identity))
    if "warm_start" in found.identity and source != now:
        job = started_from(source)
    examples = Examples.open(job.examples.url, found.identity["examples_version"])
    return replace(job, examples=examples, folder=folder, resume=found)


def choose_tables(job: TrainJob) -> TrainJob:
    """The job with `auto` for train.tables made what it comes to, which a line says."""
    train = job.settings.train
    if train.tables != "auto":
        return job
    whole = _with_tables(job, "replicated")
    with torch.device("meta"), _Undrawn():
        need = MemoryNeed.of(build_model(train.model, job.spec, job.settings.base), whole.settings)
    fits = need.fits(job.settings) and train.table_dtype == "float32"
    chosen = whole if fits else _with_tables(job, "sharded")
    log.info(
        "train.tables is auto: %s, since a rank %s may take %s, and "
        "train.memory_mb is %s, train.table_dtype %s",
        chosen.settings.train.tables,
        need.title,
        need.text(),
        train.memory_mb or "not set",
        train.table_dtype,
    )
    return chosen


def _with_tables(job: TrainJob, tables: str) -> TrainJob:
    train = job.settings.train.model_copy(update={"tables": tables})
    return replace(job, settings=job.settings.model_copy(update={"train": train}))


def refuse_unfit_job(job: TrainJob) -> MemoryNeed | None:
    """Refuses what the ranks would, before Spark and they are started.

    Returns:
        What a rank's memory must hold; None of a model that only the ranks can make.

    Raises:
        ConfigError: the model, or a rank's memory, does not do for the settings and data.
    """
    settings = job.settings.train
    # No rank has more streams than the last one.
    job.stream("train", settings.workers - 1, settings.workers)
    if job.has_validation:
        job.stream("val", settings.workers - 1, settings.workers)
    # Without memory for weights, which may be large.
    with torch.device("meta"), _Undrawn():
        try:
            model = build_model(settings.model, job.spec, job.settings.base)
            refuse_ignored_places(model, job.spec)
            sharded = may_shard(settings, job.spec)
            refuse_unfit(settings, model, sharded)
            need = MemoryNeed.of(model, job.settings)
            need.refuse_excess(job.settings)
            if sharded:
                shard(model, settings, 0, settings.workers, torch.device("meta"))
            return need
        except MillstreamError:
            raise
        except Exception as error:
            # A model of the user's own may need real tensors to be made.
            log.debug("the model was not checked before the ranks build it: %r", error)
            return None


class _Undrawn(TorchFunctionMode):
    """Leaves weights as they are made. Without memory torch would draw normal ones by its compiler,
    which takes 3 s to import."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init" or func is torch.Tensor.normal_:
            return args[0] if args else given["tensor"]
        return func(*args, **given)


def trained(job: TrainJob, spark: SparkSession) -> list[RankResult]:
    """The ranks' results; see `with_restarts`."""
    return with_restarts(job, spark, train_rank)


def with_restarts(
    job: TrainJob, spark: SparkSession, work: Callable[[TrainJob, Exchange, RankMemory], R]
) -> list[R]:
    """Runs `work` on the ranks, and starts them again from the newest checkpoint when lost.

    Where Spark tries tasks again, ranks that are left go on without the lost one. This is for other
    losses: of all ranks at once, or of one where Spark does not try again and ends its job.

    Raises:
        RankLost: ranks were lost more often than `train.restarts`.
        MillstreamError: see `launch`.
    """
    settings = job.settings.train
    for restarts in range(settings.restarts + 1):
        try:
            return launch(
                partial(work, job),
                spark=spark,
                workers=settings.workers,
                settings=settings,
                folder=job.folder,
            )
        except RankLost as lost:
            if restarts == settings.restarts:
                raise
            found = newest_of_run(job.folder)
            log.warning("%s", lost)
            log.warning(
                "starting the ranks again from %s",
                f"{found.name}, {found.position.named()}" if found else "the beginning",
            )
            job.check_lock()
            forget(job.folder)
            job = replace(job, resume=found)
    raise AssertionError("unreachable")


def remove_checkpoints(folder: str) -> None:
    """Removes what a run kept to go on from; the registry has its own copy of the model.

    The best epoch's model goes last: a checkpoint without it would be resumed in vain.
    """
    fs, path = fsspec.core.url_to_fs(folder)
    for checkpoint in listed(folder):
        fs.rm(checkpoint, recursive=True)
    if fs.exists(path):
        fs.rm(path, recursive=True)
