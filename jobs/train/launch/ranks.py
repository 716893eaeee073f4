"""Starts the ranks, and runs the work in each rank's process."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import socket
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import torch
from pyspark.sql import SparkSession

import jobs
from jobs.base.errors import ConfigError
from jobs.base.quiet import quiet_libraries
from jobs.base.termination import ending, handlers_kept
from jobs.settings.train import TrainSettings
from jobs.train.exchange.exchange import Alone, Exchange
from jobs.train.keep.commits import RankMemory
from jobs.train.launch.failures import end_rank, explained
from jobs.train.launch.horovod_tasks import quick
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
    """Runs `work` on each rank, and returns the results in order of the ranks.

    A single rank runs in this process. Otherwise a Spark task starts a process for each rank.

    Args:
        work: called with the rank's exchange and memory. It is sent by cloudpickle; the modules
            that it uses must be importable where Spark's tasks run.
        workers: number of ranks.
        folder: URL of the run's folder, where all ranks can write, and do when they fail.

    Raises:
        ConfigError: Horovod is not installed, or Spark cannot run as many tasks at a time.
        RankFailed: a rank ended without a result.
        MillstreamError: `work` raised one on a rank, whose number the message has.
    """
    if workers == 1:
        return [work(Alone(), RankMemory())]
    refuse_without_horovod(workers)
    refuse_too_few_slots(spark, workers, settings.start_timeout_s)
    ship_code(spark)
    output = RankOutput()
    elastic = task_attempts(spark) > 1
    rank = partial(_run_rank, work, folder, settings.stall_s, log.getEffectiveLevel(), elastic)
    try:
        # The tasks' Python: under --archives it lies elsewhere than the driver's.
        results = _by_horovod(
            rank, workers, settings, output, elastic, spark.sparkContext.pythonExec
        )
    except Exception as error:
        lines = output.last_lines()
        raise explained(error, folder, workers, settings.stall_s, lines) from error
    # A task whose rank was lost has no result.
    return [pickle.loads(result) for result in results if result is not None]


def _by_horovod(
    rank: Callable[[], bytes],
    workers: int,
    settings: TrainSettings,
    output: RankOutput,
    elastic: bool,
    python: str,
) -> list[bytes | None]:
    """Runs `rank` in as many processes; None stands for those that were lost."""
    import horovod.spark

    common: dict[str, Any] = {
        "num_proc": workers,
        "start_timeout": settings.start_timeout_s,
        # On top of the environment of Spark's tasks.
        "env": environment(settings),
        "stdout": output,
        "stderr": output,
        "verbose": 0,
    }
    _prepare_launcher(python)
    with handlers_kept(), quiet_spark_thread():
        results: list[bytes | None] = (
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
    return results


def refuse_without_horovod(workers: int) -> None:
    """Checks that Horovod is there, which pip alone does not install.

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


def _prepare_launcher(python: str) -> None:
    """Has Horovod start elastic ranks by the interpreter `python`, from any thread of ours, and
    its tasks be `quick`.

    It would use the path of the driver's, which the tasks' hosts may not have, and take signals
    for itself, from any thread and for good.
    """
    from horovod.runner import gloo_run as runner
    from horovod.spark import gloo_run
    from horovod.spark import runner as tasks

    gloo_run.sys = SimpleNamespace(executable=python)
    # Once: what it was before is Horovod's own.
    if runner.register_shutdown_event is not _shutdown_event:
        runner.register_shutdown_event = _shutdown_event
        tasks._make_mapper = partial(quick, tasks._make_mapper)


def _shutdown_event() -> threading.Event:
    """What Horovod ends its ranks on: a signal sets it, and ends the command as without ranks.

    Only the main thread hears signals: the trials of a search have threads of their own.
    """
    event = threading.Event()
    if threading.current_thread() is threading.main_thread():
        for name in ending():
            if callable(handler := signal.getsignal(name)):
                signal.signal(name, partial(_end, event, handler))
    return event


def _end(event: threading.Event, handler: Callable[..., object], *signalled: Any) -> None:
    event.set()
    handler(*signalled)


def _run_rank(
    work: Callable[[Exchange, RankMemory], R],
    folder: str,
    stall_s: float,
    level: int,
    elastic: bool,
) -> bytes:
    """Runs `work` in a rank's process, and ends the process when it fails.

    Args:
        level: of the log.
        elastic: whether training goes on when ranks are lost or join.

    Returns:
        The result, pickled: the task that hands it on need not import what it is made of.
    """
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
        end_rank(error, _rank_now(rank), folder)

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
    return pickle.dumps(result)


def _rank_now(first: int) -> int:
    """This rank's number. It may differ from the first one since ranks were lost or joined."""
    import horovod.torch as hvd

    try:
        return int(hvd.rank())
    except ValueError:
        # Between two rounds of ranks there is none.
        return first


def _place() -> str:
    """The host, process and folder of this rank, for people who look for it."""
    code = next(iter(jobs.__path__))
    return f"runs on {socket.gethostname()}, pid {os.getpid()}, in {Path.cwd()}, code from {code}"


def _leave_gpu() -> bool:
    """Hides the GPUs from torch, for a Horovod that can only add up in the host's memory.

    Must be called before torch looks for GPUs, which it does once.

    Returns:
        Whether the host has any.
    """
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    return any(Path("/dev").glob("nvidia[0-9]*"))


def _take_gpu() -> None:
    """Makes the GPU that Spark gave to this rank's task the current one; without GPUs nothing.

    Raises:
        ConfigError: the host has GPUs, but Spark gave none.
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
