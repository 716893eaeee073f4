"""What ranks get from Spark: task slots, attempts, environment variables, and the code."""

from __future__ import annotations

import os
import time

from pyspark.sql import SparkSession

from jobs.base.errors import ConfigError
from jobs.base.quiet import of_processes
from jobs.settings.train import TrainSettings

# Seconds that a process takes to start and import torch on a busy host.
RANK_START_S = 60
_POLL_S = 0.5


def task_attempts(spark: SparkSession) -> int:
    """How often Spark tries a task. With more than one attempt, a lost rank comes back."""
    return int(spark.sparkContext._jsc.sc().taskScheduler().maxTaskFailures())


def environment(settings: TrainSettings) -> dict[str, str]:
    """Environment variables of the ranks: threads, memory, and Horovod's deadlines.

    The deadlines follow from `train.stall_s`. Some of them are endless by default.
    """
    return {
        **of_processes(),
        "OMP_NUM_THREADS": str(settings.threads_per_rank),
        # Otherwise glibc returns each step's memory to the system and asks for it again. Page
        # faults took up to a fifth of a rank's time, and of some ranks more than of others.
        "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
        "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
        # In this time a new rank must start and join the ranks that are left.
        "HOROVOD_GLOO_TIMEOUT_SECONDS": str(settings.stall_s + RANK_START_S),
        "HOROVOD_STALL_CHECK_TIME_SECONDS": str(max(1, settings.stall_s // 2)),
        "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS": str(settings.stall_s),
        "HOROVOD_LOG_LEVEL": "fatal",
    }


def refuse_too_few_slots(
    spark: SparkSession, workers: int, timeout_s: float, setting: str = "train.workers"
) -> None:
    """Checks that Spark can run all ranks at the same time; otherwise they would wait for ever.

    The executors of a cluster start one by one after the session, so this waits for them.

    Raises:
        ConfigError: after `timeout_s` seconds there are fewer task slots than `workers`.
    """
    context = spark.sparkContext
    if context.getConf().get("spark.dynamicAllocation.enabled", "false") == "true":
        return
    deadline = time.monotonic() + (0 if str(context.master).startswith("local[") else timeout_s)
    while (slots := _slots(spark)) < workers and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    if slots < workers:
        raise ConfigError(
            f"{setting} is {workers}, but Spark runs {slots} tasks at a time "
            f"(master {context.master})",
            f"at least {workers} slots: each rank keeps one for the whole training",
            f"make it {slots} or less, or give Spark more cores",
        )


def _slots(spark: SparkSession) -> int:
    """The number of tasks that Spark can run at the same time."""
    jvm = spark.sparkContext._jsc.sc()
    profile = jvm.resourceProfileManager().defaultResourceProfile()
    return int(jvm.maxNumConcurrentTasks(profile))


def ship_code(spark: SparkSession) -> None:
    """Puts the files of --py-files on the PYTHONPATH of processes that tasks start.

    Spark does so for its own Python workers only. The files lie in the folder that a task runs in;
    under a local master they are on the driver's path.
    """
    context = spark.sparkContext
    files = context.getConf().get("spark.submit.pyFiles", "") or ""
    names = [file.rpartition("/")[2] for file in files.split(",")]
    before = context.environment.get("PYTHONPATH", "").split(os.pathsep)
    path = [name for name in dict.fromkeys([*names, *before]) if name]
    if path:
        context.environment["PYTHONPATH"] = os.pathsep.join(path)
