"""What benchmarks share: measured commands, the machine's name, tables, the last line of JSON."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_SAMPLE_S = 0.2


@dataclass(frozen=True)
class Measured:
    """A finished command, with all its descendants. `peak_mb`: their resident memory together."""

    seconds: float
    cpu_s: float
    peak_mb: float
    output: str


def measured(
    command: Sequence[str],
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Measured:
    """Runs a command, in a folder; one that fails ends the benchmark with its output."""
    started, before = time.monotonic(), os.times()
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **(environment or {})},
        cwd=folder,
    )
    peak, cpu = [0.0], dict[tuple[int, float], float]()
    watch = threading.Thread(target=_watch, args=(process.pid, peak, cpu))
    watch.start()
    output, _ = process.communicate()
    seconds, after = time.monotonic() - started, os.times()
    watch.join()
    if process.returncode != 0:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}:\n{output[-4000:]}")
    cpu_s = (after.children_user + after.children_system) - (
        before.children_user + before.children_system
    )
    # The system tells of processes that were waited for, which Spark's Python workers are not.
    return Measured(seconds, max(cpu_s, sum(cpu.values())), peak[0], output)


def _watch(pid: int, peak: list[float], cpu: dict[tuple[int, float], float]) -> None:
    """Keeps the greatest memory, and of each process the CPU time that it was last seen with."""
    while True:
        try:
            root = psutil.Process(pid)
            if root.status() == psutil.STATUS_ZOMBIE:
                return
            family = [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        resident = 0
        for process in family:
            try:
                resident += process.memory_info().rss
                times = process.cpu_times()
                cpu[process.pid, process.create_time()] = times.user + times.system
            except psutil.NoSuchProcess:
                continue
        peak[0] = max(peak[0], resident / 2**20)
        time.sleep(_SAMPLE_S)


def machine(*packages: str) -> str:
    """The machine in words, for a table: cores, memory, Python and the packages' versions."""
    gib = psutil.virtual_memory().total / 2**30
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores, {gib:.0f} GiB, Python {platform.python_version()}, {versions}"


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table in Markdown; all columns but the first are aligned right."""
    print(f"| {' | '.join(head)} |")
    print(f"|---|{'---:|' * (len(head) - 1)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")


def print_figures(figures: Mapping[str, Any]) -> None:
    """The last line of a benchmark's output."""
    print(json.dumps(figures, sort_keys=True))


def session_for(name: str, ranks: int) -> SparkSession:
    """A session with room for as many ranks, on however few cores."""
    from jobs.base.spark import session

    local = (Path(__file__).parents[1] / "conf" / "spark" / "local.conf").read_text()
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as properties:
        properties.write(local.replace("local[*]", f"local[{ranks}]"))
        properties.flush()
        return session(name, properties.name)
