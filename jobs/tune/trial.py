"""A trial: a training of one rank in a task of Spark's, or of several through Horovod."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark.sql import SparkSession

from jobs.base.errors import ConfigError, MillstreamError
from jobs.train.attempts import with_restarts
from jobs.train.exchange.exchange import Alone, Exchange
from jobs.train.keep.commits import RankMemory
from jobs.train.keep.resume import newest_of_run
from jobs.train.launch.failures import RankFailed
from jobs.train.launch.rank_job import RankResult, TrainJob
from jobs.train.rank import train_rank
from jobs.train.step.finite import Diverged
from jobs.train.step.history import EpochResult, History

log = logging.getLogger("millstream.tune")

# What torch says, in an error of a kind that other causes have too.
_NO_MEMORY = ("not enough memory", "out of memory", "MemoryError")


@dataclass(frozen=True)
class TrialResult:
    """What became of a trial.

    Attributes:
        trained: what was trained; None where the trial failed.
        failed: why it failed, which is a result; empty where it did not.
        seconds: that it took, in all its runs that were told of.
    """

    trained: RankResult | None
    failed: str
    seconds: float

    @property
    def rows(self) -> int:
        """Rows that it trained, of all epochs."""
        if self.trained is None:
            return 0
        if self.trained.rung is not None:
            return self.trained.rung.rows
        return sum(epoch.rows for epoch in self.trained.history.epochs)

    @property
    def is_paused(self) -> bool:
        """Whether it is at a rung, and may go on."""
        return self.trained is not None and self.trained.rung is not None

    def value(self, metric: str, more: bool) -> float | None:
        """What the validation rows say of its best epoch, or at its rung, where that is better.

        Args:
            more: whether more of the metric is better.
        """
        if self.trained is None:
            return None
        best, rung = self.trained.history.best, self.trained.rung
        found = [best.metrics().get(metric) if best is not None else None]
        if rung is not None:
            found.append(getattr(rung, metric))
        known = [value for value in found if value is not None]
        return (max if more else min)(known, default=None)

    def facts(self) -> dict[str, Any]:
        """As a tree for JSON, for the study's journal."""
        known = {"seconds": self.seconds, "rows": self.rows}
        if self.trained is None or self.is_paused:
            return known
        history = self.trained.history
        assert history.best is not None
        return {
            **known,
            "epochs": [asdict(epoch) for epoch in history.epochs],
            "best_epoch": history.best.epoch,
            "weights": self.trained.digest,
        }


def result_of(job: TrainJob, facts: Mapping[str, Any]) -> RankResult:
    """What was trained, of `TrialResult.facts`."""
    epochs = [EpochResult(**epoch) for epoch in facts["epochs"]]
    history = History(epochs, epochs[facts["best_epoch"]])
    return RankResult(0, history, facts["weights"], job.fingerprint)


def run_trial(spark: SparkSession, job: TrainJob) -> TrialResult:
    """Runs a trial to its end or its rung; again, from its last checkpoint, when it is lost.

    Raises:
        MillstreamError: something is wrong that is no result of the trial.
    """
    began = time.monotonic()
    found = _by_horovod(spark, job) if job.settings.train.workers > 1 else _by_task(spark, job)
    if isinstance(found, MillstreamError):
        raise found
    return replace(found, seconds=time.monotonic() - began)


def _by_task(spark: SparkSession, job: TrainJob) -> TrialResult | MillstreamError:
    tasks = spark.sparkContext.parallelize([0], 1)
    for attempt in range(job.settings.train.restarts + 1):
        try:
            (found,) = tasks.map(lambda _: _in_task(job)).collect()
            return found
        except Py4JJavaError:
            if attempt == job.settings.train.restarts:
                raise
            log.warning("the task of %s was lost; it is run again", job.folder.rsplit("/", 1)[-1])
    raise AssertionError("unreachable")


def _by_horovod(spark: SparkSession, job: TrainJob) -> TrialResult:
    try:
        return with_restarts(replace(job, resume=newest_of_run(job.folder)), spark, _on_rank)[0]
    except RankFailed as failed:
        # Of one rank alone, which the others waited for.
        if not any(words in str(failed) for words in _NO_MEMORY):
            raise
        return TrialResult(None, str(failed), 0.0)


def _in_task(job: TrainJob) -> TrialResult | MillstreamError:
    work = replace(job, resume=newest_of_run(job.folder))
    try:
        return _on_rank(work, Alone(), RankMemory())
    except MillstreamError as error:
        return error


def _on_rank(job: TrainJob, exchange: Exchange, memory: RankMemory) -> TrialResult:
    """A rank's result; all ranks have the same but for times, so rank 0's is the trial's."""
    ended = partial(TrialResult, seconds=0.0)
    try:
        return ended(train_rank(job, exchange, memory), "")
    except (Diverged, ConfigError) as error:
        return ended(None, str(error))
    except MemoryError as error:
        return _without_memory(error, exchange)
    except RuntimeError as error:
        if not any(words in str(error) for words in _NO_MEMORY):
            raise
        return _without_memory(error, exchange)


def _without_memory(error: Exception, exchange: Exchange) -> TrialResult:
    """Others of several ranks wait for this one, which must end them."""
    if exchange.size > 1:
        raise error
    return TrialResult(None, str(error) or "the memory was not enough", 0.0)
