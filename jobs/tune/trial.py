"""A trial: a training of one rank in a task of Spark's."""

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
from jobs.train.exchange.exchange import Alone
from jobs.train.keep.commits import RankMemory
from jobs.train.keep.resume import newest_of_run
from jobs.train.launch.rank_job import RankResult, TrainJob
from jobs.train.rank import train_rank
from jobs.train.step.finite import Diverged
from jobs.train.step.history import EpochResult, History

log = logging.getLogger("millstream.tune")

# What torch says, in an error of a kind that other causes have too.
_NO_MEMORY = ("not enough memory", "out of memory")


@dataclass(frozen=True)
class TrialResult:
    """What became of a trial.

    Attributes:
        trained: what was trained; None where the trial failed.
        failed: why it failed, which is a result; empty where it did not.
        seconds: of this run of it; it may have gone on from a checkpoint.
    """

    trained: RankResult | None
    failed: str
    seconds: float

    def facts(self) -> dict[str, Any]:
        """As a tree for JSON, for the study's journal."""
        if self.trained is None:
            return {"seconds": self.seconds}
        history = self.trained.history
        assert history.best is not None
        return {
            "seconds": self.seconds,
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
    """Runs a trial in a task; again, from its last checkpoint, when the task is lost.

    Raises:
        MillstreamError: something is wrong that is no result of the trial.
    """
    tasks = spark.sparkContext.parallelize([0], 1)
    for attempt in range(job.settings.train.restarts + 1):
        try:
            (found,) = tasks.map(lambda _: _in_task(job)).collect()
            break
        except Py4JJavaError:
            if attempt == job.settings.train.restarts:
                raise
            log.warning("the task of %s was lost; it is run again", job.folder.rsplit("/", 1)[-1])
    if isinstance(found, MillstreamError):
        raise found
    assert isinstance(found, TrialResult)
    return found


def _in_task(job: TrainJob) -> TrialResult | MillstreamError:
    began = time.monotonic()
    ended = partial(TrialResult, seconds=0.0)
    try:
        work = replace(job, resume=newest_of_run(job.folder))
        result = ended(train_rank(work, Alone(), RankMemory()), "")
    except (Diverged, ConfigError, MemoryError) as error:
        result = ended(None, str(error) or "the memory was not enough")
    except MillstreamError as error:
        return error
    except RuntimeError as error:
        if not any(words in str(error) for words in _NO_MEMORY):
            raise
        result = ended(None, str(error))
    return replace(result, seconds=time.monotonic() - began)
