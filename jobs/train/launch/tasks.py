"""What ranks get from Spark: slots, attempts, and an environment with deadlines."""

from __future__ import annotations

import os
import time

from pyspark.sql import SparkSession

from jobs.base.errors import ConfigError
from jobs.base.quiet import of_processes
from jobs.settings.train import TrainSettings

# What a process takes to start and import torch on a busy host.
RANK_START_S = 60
_POLL_S = 0.5


def task_attempts(spark: SparkSession) -> int:
    """How often Spark tries a task; a lost rank comes back only where that is more than once."""
    return int(spark.sparkContext._jsc.sc().taskScheduler().maxTaskFailures())


def environment(settings: TrainSettings) -> dict[str, str]:
    """Threads, memory, and deadlines: of Horovod's own, which follow from `train.stall_s`, some
    are for ever by default."""
    return {
        **of_processes(),
        "OMP_NUM_THREADS": str(settings.threads_per_rank),
        # Else glibc gives each step's memory back to the system and takes it again: up to a fifth
        # of a rank's time went into page faults, of one rank more than of another.
        "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
        "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
        # Ranks that are left wait this long for the process of a new one to start and join.
        "HOROVOD_GLOO_TIMEOUT_SECONDS": str(settings.stall_s + RANK_START_S),
        "HOROVOD_STALL_CHECK_TIME_SECONDS": str(max(1, settings.stall_s // 2)),
        "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS": str(settings.stall_s),
        "HOROVOD_LOG_LEVEL": "fatal",
    }


def refuse_too_few_slots(spark: SparkSession, workers: int, timeout_s: float) -> None:
    """Ranks wait for each other, so all need a slot at once; a missing one is a hang.

    A cluster's executors come one by one after the session: they are waited for.
    """
    context = spark.sparkContext
    if context.getConf().get("spark.dynamicAllocation.enabled", "false") == "true":
        return
    deadline = time.monotonic() + (0 if str(context.master).startswith("local[") else timeout_s)
    while (slots := _slots(spark)) < workers and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    if slots < workers:
        raise ConfigError(
            f"train.workers is {workers}, but Spark runs {slots} tasks at a time "
            f"(master {context.master})",
            f"at least {workers} slots: each rank keeps one for the whole training",
            f"set train.workers to {slots} or less, or give Spark more cores",
        )


def _slots(spark: SparkSession) -> int:
    jvm = spark.sparkContext._jsc.sc()
    profile = jvm.resourceProfileManager().defaultResourceProfile()
    return int(jvm.maxNumConcurrentTasks(profile))


def ship_code(spark: SparkSession) -> None:
    """Gives ranks the modules of --py-files, which Spark puts on the path of its own tasks only.

    They lie in the folder that tasks run in. Under a local master the driver's path has them.
    """
    context = spark.sparkContext
    files = context.getConf().get("spark.submit.pyFiles", "") or ""
    names = [file.rpartition("/")[2] for file in files.split(",")]
    before = context.environment.get("PYTHONPATH", "").split(os.pathsep)
    path = [name for name in dict.fromkeys([*names, *before]) if name]
    if path:
        context.environment["PYTHONPATH"] = os.pathsep.join(path)
