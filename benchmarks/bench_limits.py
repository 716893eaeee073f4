"""Tables and moments of three times what a rank may hold: trained, evaluated and scored with.

    make bench-limits        or: python -m benchmarks.bench_limits --values 60000

Every process, the driver and its JVM too, has a limit of the kernel on memory of its own
(RLIMIT_DATA, `ulimit -d`): heap and anonymous maps, used or not. Files that are mapped do not
count, because the kernel can write them out and take their pages back. The limit is also
`train.memory_mb`: a third of the tables' rows and Adam's moments, and what the sum at the start
counts beside them, mostly a GiB for Python and its libraries. Under it

1. the ETL makes examples of a date with all values, and of a day to train on,
2. replicated tables are refused at the start, with the sum; unchecked, ranks end without memory,
3. four ranks with a quarter each, their copies on disk, train with commits and checkpoints, and the
   model is registered,
4. it is evaluated, and scores another date,
5. in another training a rank is killed, and it goes on from the copies on disk.

With --strict the limit is a third of rows and moments, Python and its libraries included: a quarter
fits each of four ranks, the sum at the start, which counts with a lost rank, does not.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil

from benchmarks.common import machine, print_figures, print_table
from benchmarks.wide_rows import FIELDS, write_day
from jobs.base.spark import DAEMON

ROOT = Path(__file__).resolve().parents[1]
RANKS, DIM, SAMPLE_S = 4, 256, 0.2
# Of a rank's sum beside the tables: the stream, Python and its libraries, the dense layers.
STREAM_MB, LIBRARIES_MB, LAYERS_MB = 64, 1024, 16
# All values of a row, and its two moments.
ROW_BYTES = 3 * 4 * DIM
VALUES_DS, TRAIN_DS, SCORE_DS = "2026-01-01", "2026-01-02", "2026-01-03"
TRAIN_ROWS, SCORE_ROWS = 80_000, 2_000
# What a process is told by, in its command line.
KINDS = {
    "horovod.spark.task.gloo_exec_fn": "rank",
    DAEMON: "worker",
    "jobs.main": "driver",
}

CONFIG = f"""\
schema: {ROOT}/benchmarks/wide_rows.py:WIDE
lake: lake
etl:
  sources: {{wide: "raw/day_{{ds}}.csv"}}
  split: {{train: 0.8, val: 0.1, test: 0.1, seed: 7}}
stream: {{streams: 16, window_rows: 2048, memory_mb: {STREAM_MB}}}
train:
  model: mlp
  hidden: [16]
  embedding_dim: {DIM}
  max_embedding_dim: {DIM}
  window_days: 1
  optimizer: adam
  batch_rows: 4096
  epochs: 1
  workers: {RANKS}
  tables: sharded
  table_copies: disk
  commit_steps: 4
  checkpoint_rows: 24576
spark: {{properties_file: spark.conf}}
"""


@dataclass
class Step:
    """A command that ran.

    Attributes:
        own_mb: by the kind of process, the most resident memory that no file stands behind.
        counted_mb: the most that the limit is compared with.
    """

    name: str
    code: int = 0
    seconds: float = 0.0
    output: str = ""
    own_mb: dict[str, int] = field(default_factory=dict)
    counted_mb: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Limited:
    """Runs commands of ours on the data in a folder, each process under the limit."""

    folder: Path
    limit_mb: int

    def run(
        self,
        name: str,
        command: str,
        *arguments: str,
        meanwhile: Callable[[int], None] | None = None,
    ) -> Step:
        """Runs a command, and `meanwhile` with the number of its process."""
        limit = self.limit_mb << 20, self.limit_mb << 20
        step, started = Step(name), time.monotonic()
        config = ("--config", str(self.folder / "wide.yaml"))
        process = subprocess.Popen(
            [sys.executable, "-m", "jobs.main", command, *config, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            # Arrow's own allocator takes a GiB at its start, which is hardly used, and counts.
            env={**os.environ, "TMPDIR": str(self.folder), "ARROW_DEFAULT_MEMORY_POOL": "system"},
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, limit),
        )
        threading.Thread(target=_watch, args=(process.pid, step), daemon=True).start()
        if meanwhile is not None:
            threading.Thread(target=meanwhile, args=(process.pid,), daemon=True).start()
        step.output, _ = process.communicate()
        step.code, step.seconds = process.returncode, time.monotonic() - started
        sys.stderr.write(f"{name}: exit code {step.code}\n{step.output[-4000:]}\n")
        return step


def _watch(pid: int, step: Step) -> None:
    while psutil.pid_exists(pid):
        for kind, process in _family(pid):
            status = _status(process)
            for most, name in ((step.own_mb, "RssAnon"), (step.counted_mb, "VmData")):
                if found := re.search(rf"{name}:\s+(\d+)", status):
                    most[kind] = max(most.get(kind, 0), int(found[1]) >> 10)
        time.sleep(SAMPLE_S)


def _family(pid: int) -> Iterator[tuple[str, psutil.Process]]:
    """A process and its descendants that are Python, each with its kind."""
    try:
        root = psutil.Process(pid)
        family = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in family:
        try:
            words = process.cmdline()
        except psutil.NoSuchProcess:
            continue
        kind = next((kind for sign, kind in KINDS.items() if sign in words), None)
        if kind is not None and "python" in words[0]:
            yield kind, process


def _status(process: psutil.Process) -> str:
    try:
        return Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return ""


def kill_a_rank(lake: Path, pid: int) -> None:
    """Kills a rank of a training once there is a checkpoint."""
    while psutil.pid_exists(pid):
        ranks = [process for kind, process in _family(pid) if kind == "rank"]
        if ranks and list(lake.glob("wide/checkpoints/*/at-*/commit.json")):
            ranks[-1].kill()
            return
        time.sleep(SAMPLE_S)


def write_inputs(folder: Path, values: int) -> None:
    """Writes raw data of so many values a field, and the settings."""
    write_day(folder / f"raw/day_{VALUES_DS}.csv", values * 5 // 4, values, 1)
    write_day(folder / f"raw/day_{TRAIN_DS}.csv", TRAIN_ROWS, values, 2)
    write_day(folder / f"raw/day_{SCORE_DS}.csv", SCORE_ROWS, values, 3)
    local = (ROOT / "conf/spark/local.conf").read_text().replace("local[*]", f"local[{RANKS}]")
    local = re.sub(r"(driver\.memory +)4g", r"\g<1>1g", local)
    (folder / "spark.conf").write_text(local)
    # A task is tried twice, so that those that are left go on without a lost rank.
    again = local.replace(f"local[{RANKS}]", f"local[{RANKS},2]")
    (folder / "again.conf").write_text(again)
    (folder / "wide.yaml").write_text(CONFIG)


def steps_of(limited: Limited, is_strict: bool) -> Iterator[Step]:
    """Takes the steps one after the other."""
    checked = ("--set", f"train.memory_mb={limited.limit_mb}")
    whole = ("--set", "train.tables=replicated", "--set", "train.restarts=0")
    yield limited.run("ETL", "etl", "--dates", f"{VALUES_DS}..{TRAIN_DS}")
    yield limited.run("replicated", "train", *whole, *checked)
    yield limited.run("replicated, unchecked", "train", *whole)
    yield limited.run("sharded", "train", *(() if is_strict else checked))
    yield limited.run("evaluate", "evaluate")
    yield limited.run("score", "score", "--date", SCORE_DS, "--model", "latest")
    if is_strict:
        return
    longer = ("--set", "train.epochs=2", "--set", "spark.properties_file=again.conf")
    kill = partial(kill_a_rank, limited.folder / "lake")
    yield limited.run("a rank killed", "train", *checked, *longer, meanwhile=kill)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--values", type=int, default=200_000, help="of each field")
    parser.add_argument("--strict", action="store_true")
    asked = parser.parse_args()
    state_mb = FIELDS * asked.values * ROW_BYTES >> 20
    held_mb = -(-state_mb // 3)
    limit_mb = held_mb + (0 if asked.strict else STREAM_MB + LIBRARIES_MB + LAYERS_MB)
    with tempfile.TemporaryDirectory(prefix="bench-limits-") as name:
        write_inputs(Path(name), asked.values)
        steps = list(steps_of(Limited(Path(name), limit_mb), asked.strict))
    print(machine("torch", "horovod", "pyspark"))
    print(
        f"\nTables and moments of {state_mb:,} MiB; a rank may hold {held_mb:,} MiB of them, a "
        f"process {limit_mb:,} MiB\n"
    )
    kinds = list(KINDS.values())
    lines = [
        [step.name, str(step.code), f"{step.seconds:.0f}"]
        + [f"{most.get(kind, 0):,}" for most in (step.own_mb, step.counted_mb) for kind in kinds]
        for step in steps
    ]
    own = [f"{kind}, MiB used" for kind in kinds]
    print_table(["", "exit code", "s", *own, *(f"{kind}, counted" for kind in kinds)], lines)
    figures = {
        step.name: {"code": step.code, "s": round(step.seconds), "own_mb": step.own_mb}
        | {"counted_mb": step.counted_mb, "said": step.output[-3000:]}
        for step in steps
    }
    sizes = {"state_mb": state_mb, "limit_mb": limit_mb, "beside_mb": limit_mb - held_mb}
    print_figures({**sizes, "steps": figures})


if __name__ == "__main__":
    main()
