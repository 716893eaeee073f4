"""What starts the ranks, and what each one's process begins and ends with."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import torch
from pyspark.sql import SparkSession

import jobs
from jobs.base.errors import ConfigError
from jobs.base.quiet import quiet_libraries
from jobs.settings.train import TrainSettings
from jobs.train.exchange.exchange import Alone, Exchange
from jobs.train.keep.commits import RankMemory
from jobs.train.launch.failures import explained, leave_reason
from jobs.train.launch.output import RankOutput, quiet_spark_thread
from jobs.train.launch.tasks import (
    environment,
    refuse_too_few_slots,
    ship_code,
    task_attempts,
)
from jobs.train.launch.watchdog import watched

R = TypeVar("R")
log = logging.getLogger("millstream.train")


def launch(
    work: Callable[[Exchange, RankMemory], R],
    *,
    spark: SparkSession,
    workers: int,
    settings: TrainSettings,
    folder: str,
) -> list[R]:
    """Runs `work` on each rank; returns the results in order of the ranks.

    A single rank runs in this process. Otherwise each rank is a process that a Spark task starts.

    Args:
        work: sent by pickle; modules that it names must be importable where Spark's tasks run.
        folder: of the run, where a rank that fails leaves its reason. All ranks can write there.

    Raises:
        ConfigError: Horovod is not installed, or Spark cannot run as many tasks at a time.
        RankFailed: a rank ended without a result.
        MillstreamError: what `work` raised on a rank, with the rank's number.
    """
    if workers == 1:
        return [work(Alone(), RankMemory())]
    refuse_without_horovod(workers)
    refuse_too_few_slots(spark, workers, settings.start_timeout_s)
    import horovod.spark

    ship_code(spark)
    # Python of the tasks: under --archives, the driver's is at another place.
    python = spark.sparkContext.pythonExec
    output = RankOutput()
    elastic = task_attempts(spark) > 1
    rank = partial(_run_rank, work, folder, settings.stall_s, log.getEffectiveLevel(), elastic)
    common: dict[str, Any] = {
        "num_proc": workers,
        "start_timeout": settings.start_timeout_s,
        # On top of the environment of Spark's tasks.
        "env": environment(settings),
        "stdout": output,
        "stderr": output,
        "verbose": 0,
    }
    try:
        with quiet_spark_thread(), _elastic_ranks_by(python):
            results: list[R | None] = (
                horovod.spark.run_elastic(
                    rank,
                    min_num_proc=1,
                    max_num_proc=workers,
                    elastic_timeout=settings.start_timeout_s,
                    **common,
                )
                if elastic
                else horovod.spark.run(rank, use_gloo=True, executable=python, **common)
            )
    except Exception as error:
        lines = output.last_lines()
        raise explained(error, folder, workers, settings.stall_s, lines) from error
    # A task that no rank ran in any more has none.
    return [result for result in results if result is not None]


def refuse_without_horovod(workers: int) -> None:
    """Horovod is not among what pip installs: its build needs help.

    Raises:
        ConfigError: it cannot be imported.
    """
    try:
        import horovod.spark
        import horovod.torch  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"training with {workers} workers, but Horovod cannot be imported: {error}",
            "Horovod, built against this environment's torch",
            "`make setup` in a clone builds it, as tools/build_horovod.sh does for any "
            "environment; or train with one worker (--workers 1, train.workers: 1)",
        ) from error


@contextmanager
def _elastic_ranks_by(python: str) -> Iterator[None]:
    """Horovod starts the ranks of `run_elastic` by the driver's interpreter, wherever they are."""
    from horovod.spark import gloo_run

    before = gloo_run.sys
    gloo_run.sys = SimpleNamespace(executable=python)
    try:
        yield
    finally:
        gloo_run.sys = before


def _run_rank(
    work: Callable[[Exchange, RankMemory], R],
    folder: str,
    stall_s: float,
    level: int,
    elastic: bool,
) -> R:
    """Runs in each rank's process."""
    import horovod.torch as hvd

    from jobs.train.exchange.horovod import HorovodExchange
    from jobs.train.launch.elastic import run_again

    gpu_left = _leave_gpu() if not hvd.nccl_built() else False
    hvd.init()
    prefix = "" if hvd.rank() == 0 else f"rank {hvd.rank()}: "
    logging.basicConfig(stream=sys.stderr, format=prefix + "%(message)s")
    log.setLevel(level)
    quiet_libraries()
    rank = hvd.rank()
    log.info("%s%s", "" if prefix else "rank 0: ", _place())
    if gpu_left:
        log.warning("trains on CPUs: Horovod was built without GPU operations (`make -B setup`)")

    def fail(error: BaseException) -> None:
        leave_reason(error, rank, folder)
        # At once, with the peers still in an exchange: the launcher sees the exit code and ends
        # them, whereas hvd.shutdown() would wait for them.
        os._exit(1)

    try:
        _take_gpu()
        with watched(stall_s):
            if elastic:
                result = run_again(work, folder, stall_s, fail)
            else:
                result = work(HorovodExchange(stall_s, fail), RankMemory())
    except BaseException as error:
        fail(error)
        raise
    hvd.shutdown()
    return result


def _place() -> str:
    """Where to look for this rank: its host, its process, and the folder of its Spark executor."""
    code = next(iter(jobs.__path__))
    return f"runs on {socket.gethostname()}, pid {os.getpid()}, in {Path.cwd()}, code from {code}"


def _leave_gpu() -> bool:
    """Hides the GPUs from torch: this Horovod adds up in the host's memory alone.

    Before torch looks for them, which it does once. Returns whether there are some.
    """
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    return any(Path("/dev").glob("nvidia[0-9]*"))


def _take_gpu() -> None:
    """Makes the GPU that Spark gave this rank's task the current one.

    Raises:
        ConfigError: Spark gives none, although there are some.
    """
    from horovod.spark.task import get_available_devices

    if not torch.cuda.is_available():
        return
    given = get_available_devices()
    if not given:
        raise ConfigError(
            "Spark gave this rank no GPU, although its host has some",
            "one for each task",
            "set spark.task.resource.gpu.amount and its discovery script; to train on CPUs, set "
            "CUDA_VISIBLE_DEVICES to nothing where the tasks run",
        )
    torch.cuda.set_device(int(given[0]))
