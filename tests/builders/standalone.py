"""A Spark standalone cluster on loopback: a master and two workers, each a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyspark

SPARK_HOME = Path(pyspark.__file__).parent
# A JVM on a busy machine takes a while to start and to find the others.
DEADLINE_S = 120.0


@dataclass(frozen=True)
class Cluster:
    """A running cluster.

    Attributes:
        master: its URL, for spark-submit.
        folder: each worker's folder, with one below it for each executor: APPLICATION/NUMBER.
    """

    master: str
    folder: Path

    def executors(self) -> set[str]:
        """WORKER/APPLICATION/NUMBER of all executors that there were."""
        found = self.folder.glob("worker-*/app-*/*")
        return {str(place.relative_to(self.folder)) for place in found if place.is_dir()}


@contextmanager
def standalone(folder: Path, workers: int = 2, memory: str = "2g") -> Iterator[Cluster]:
    """Starts a master and workers of one core each; nothing of them is left at the end."""
    with ExitStack() as started:
        ready = r"Starting Spark master at (spark://\S+)"
        master = _start(started, folder / "master.log", ready, "master.Master", "--port", "0")
        for number in range(workers):
            place = folder / f"worker-{number}"
            offer = ("--cores", "1", "--memory", memory, "--work-dir", str(place), master)
            ready = "(Successfully registered with master)"
            _start(started, folder / f"{place.name}.log", ready, "worker.Worker", *offer)
        yield Cluster(master, folder)


def _start(started: ExitStack, log: Path, ready: str, name: str, *arguments: str) -> str:
    """Starts a daemon; returns what `ready` finds in its log as soon as it is there."""
    process = started.enter_context(_running(name, log, *arguments))
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline and process.poll() is None:
        found = re.search(ready, log.read_text(encoding="utf-8", errors="replace"))
        if found:
            return found[1]
        time.sleep(0.1)
    raise AssertionError(f"{name} did not start:\n{log.read_text(encoding='utf-8')}")


@contextmanager
def _running(name: str, log: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    daemon = [str(SPARK_HOME / "bin" / "spark-class"), f"org.apache.spark.deploy.{name}"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*daemon, "--host", "127.0.0.1", "--webui-port", "0", *arguments],
            env={**clean_environment(), "SPARK_DAEMON_MEMORY": "256m"},
            cwd=log.parent,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Ends a process and all that it started: asked first, so that a worker ends its executors."""
    # Python daemons and ranks have process groups of their own.
    started = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGTERM)
    _, left = psutil.wait_procs([psutil.Process(process.pid), *started], timeout=15)
    for one in left:
        one.kill()
    process.wait()


def clean_environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """This environment without what leads Python or Spark to the checkout."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "PYSPARK", "SPARK", "VIRTUAL_ENV"))
    }
    own = {"SPARK_HOME": str(SPARK_HOME), "SPARK_LOCAL_IP": "127.0.0.1"}
    return {**kept, "PATH": "/usr/local/bin:/usr/bin:/bin", **own, **(more or {})}
