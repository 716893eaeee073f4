"""From which checkpoint a training starts, and that it starts again when it lost its ranks."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial

from pyspark.sql import SparkSession

from jobs.lake.examples import Examples
from jobs.lake.lake import Lake
from jobs.train.keep.resume import newest_of_run, select
from jobs.train.launch.failures import RankLost, forget
from jobs.train.launch.rank_job import RankResult, TrainJob
from jobs.train.launch.ranks import launch
from jobs.train.rank import train_rank

log = logging.getLogger("millstream.train")


def resumed(job: TrainJob, lake: Lake, resume: str) -> TrainJob:
    """The job, from the newest checkpoint that fits; of the table version that it names.

    Raises:
        DataRefused: see `select`.
    """
    found = select(lake, resume, job.identity)
    if found is None:
        return job
    log.info("going on from checkpoint %s: %s", found.name, found.position.named())
    folder = found.url.rsplit("/", 1)[0]
    forget(folder)
    examples = Examples.open(job.examples.url, found.identity["examples_version"])
    return replace(job, examples=examples, folder=folder, resume=found)


def trained(job: TrainJob, spark: SparkSession) -> list[RankResult]:
    """Runs the ranks; when they are lost for good, again from the run's newest checkpoint.

    Where Spark tries tasks again, the ranks that are left go on by themselves. This is for the
    other losses: of all ranks at once, or of one where Spark gives up its job.

    Raises:
        RankLost: more often than `train.restarts`.
        MillstreamError: see `launch`.
    """
    settings = job.settings.train
    for restarts in range(settings.restarts + 1):
        try:
            return launch(
                partial(train_rank, job),
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
            forget(job.folder)
            job = replace(job, resume=found)
    raise AssertionError("unreachable")
