"""What a lost rank costs: a rank killed, a rank frozen, an executor killed, at random steps.

    make bench-recovery        or: python -m benchmarks.bench_recovery --seed 7 --faults kill

Other faults, by name, with `--tables sharded`: `two` ranks one after the other, two `neighbours` at
once, a rank killed inside a `checkpoint`, a `commit`, or half of one (`half-commit`).

Trains a small model in a local cluster of three executors, once without a fault and once for each.
Every training must end with the row ledger of each epoch closed, and with as many ranks as before.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pyspark.sql import SparkSession

from benchmarks.common import machine, print_figures, print_table
from benchmarks.saboteur import Saboteur, ready_to_strike
from jobs.base.spark import session
from jobs.batch.batch import Batch
from jobs.train.exchange.exchange import Exchange
from jobs.train.keep.commits import RankMemory, Recovery
from jobs.train.launch.rank_job import RankResult, TrainJob
from jobs.train.launch.ranks import launch
from jobs.train.rank import train_rank
from jobs.train.read.id_maps import MappedStream
from jobs.train.watch.progress import Console, relayed
from tests.builders.examples import write_examples
from tests.builders.training import job_of

ROOT = Path(__file__).parents[1]
BOUND_S = 10.0


@dataclass(frozen=True)
class Outcome:
    """One training. Times in seconds; what was not measured is None.

    Attributes:
        hit: rank and row that the fault was to hit.
        next_step_s: from the fault to the next step of the others.
        back_s: from the fault to the next step with all ranks.
        rows: trained and in the ledger, of each epoch.
    """

    fault: str
    hit: str
    seconds: float
    recoveries: tuple[Recovery, ...]
    next_step_s: float | None
    back_s: float | None
    rows: tuple[int, ...]


@dataclass(frozen=True)
class PacedJob(TrainJob):
    """Each step takes a little, so that a small training outlasts the start of a new rank."""

    step_s: float = 0.0

    def stream(
        self, split: Literal["train", "val"], rank: int, size: int, *more: Any
    ) -> MappedStream:
        stream = super().stream(split, rank, size, *more)
        batches = stream.epoch

        def paced(epoch: int, start_row: int = 0) -> Iterator[Batch]:
            for batch in batches(epoch, start_row):
                time.sleep(self.step_s)
                yield batch

        stream.epoch = paced  # type: ignore[method-assign]
        return stream


def watched_rank(job: TrainJob, exchange: Exchange, memory: RankMemory) -> RankResult:
    """Trains, and leaves this process's number where the saboteur finds it."""
    path = Path(job.folder, f"rank-{exchange.rank}.pid")
    path.write_text(str(os.getpid()))
    Path(job.folder, "ranks").write_text(str(exchange.size))
    ready_to_strike(Path(job.folder), exchange)
    return train_rank(job, exchange, memory)


def train_with(
    spark: SparkSession, job: TrainJob, fault: str, rank: int, row: int, ranks: int
) -> Outcome:
    folder = Path(job.folder)
    folder.mkdir(parents=True)
    saboteur = Saboteur(folder, fault, rank, row)
    if fault != "none":
        saboteur.start()
    started = time.monotonic()
    with relayed(job.folder, Console(False)):
        results = launch(
            partial(watched_rank, job),
            spark=spark,
            workers=ranks,
            settings=job.settings.train,
            folder=job.folder,
        )
    first = min(results, key=lambda result: result.rank)
    went_on = [*saboteur.went_on, None, None]
    return Outcome(
        fault=fault,
        hit=f"rank {rank} at row {row:,}" if fault != "none" else "",
        seconds=time.monotonic() - started,
        recoveries=first.recoveries,
        next_step_s=went_on[0],
        back_s=went_on[1],
        rows=tuple(epoch.rows for epoch in first.history.epochs),
    )


def figures(outcome: Outcome, rows: int, plain_s: float | None) -> dict[str, Any]:
    """For the table and the JSON line. A training whose ledger did not close ended in an error."""
    losses = [recovery for recovery in outcome.recoveries if recovery.lost]
    assert all(trained == rows for trained in outcome.rows)
    return {
        "hit": outcome.hit,
        "lost": [name for loss in losses for name in loss.lost],
        "detected_s": rounded(losses[0].detected_s if losses else None),
        "next_step_s": rounded(outcome.next_step_s),
        "all_ranks_s": rounded(outcome.back_s),
        "ranks": [recovery.ranks for recovery in outcome.recoveries],
        "redone_rows": sum(recovery.redone_rows for recovery in outcome.recoveries),
        "total_lost_s": rounded(outcome.seconds - plain_s if plain_s is not None else None),
        "seconds": rounded(outcome.seconds),
        "epochs_closed": len(outcome.rows),
    }


def rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)


COLUMNS = {
    "hit": "hit",
    "detected_s": "noticed after s",
    "next_step_s": "next step after s",
    "all_ranks_s": "all ranks again after s",
    "redone_rows": "rows redone",
    "total_lost_s": "total time lost s",
    "epochs_closed": "epochs whose ledger closed",
}


def cells(fault: str, found: Mapping[str, Any]) -> list[str]:
    return [fault, *("-" if found[name] in (None, "") else f"{found[name]}" for name in COLUMNS)]


def main() -> int:
    arguments = _arguments()
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(message)s")
    logging.getLogger("millstream").setLevel(logging.INFO)
    print(f"seed {arguments.seed}", flush=True)
    spark = _cluster(arguments.ranks)
    with tempfile.TemporaryDirectory() as root:
        outcomes = _all_trainings(spark, Path(root), arguments)
    spark.stop()
    plain = outcomes.get("none")
    found = {
        fault: figures(outcome, arguments.rows, plain.seconds if plain else None)
        for fault, outcome in outcomes.items()
    }
    print(_machine(arguments))
    print_table(["fault", *COLUMNS.values()], [cells(*item) for item in found.items()])
    next_step_s = found["kill"]["next_step_s"] if "kill" in found else 0.0
    in_time = next_step_s is not None and next_step_s < BOUND_S
    print(f"next step after a kill: {next_step_s} s, at most {BOUND_S:g} s: {in_time}")
    print_figures(found)
    return 0 if in_time else 1


def _all_trainings(
    spark: SparkSession, root: Path, arguments: argparse.Namespace
) -> dict[str, Outcome]:
    group_rows = arguments.rows // 8
    places = {("2026-01-01", "train"): [[group_rows] * 8]}
    examples = write_examples(root, places)
    rng, outcomes = random.Random(arguments.seed), {}
    for fault in arguments.faults:
        job = _paced(
            job_of(
                examples,
                root / "runs" / fault,
                batch_rows=arguments.batch_rows,
                epochs=arguments.epochs,
                stall_s=arguments.stall_s,
                commit_steps=arguments.commit_steps,
                checkpoint_rows=arguments.checkpoint_rows,
                tables=arguments.tables,
                table_copies=arguments.table_copies,
                table_buckets=64,
            ),
            arguments.step_ms / 1000,
        )
        # Early enough for the replacement to join while there is something left to train.
        row = rng.randrange(arguments.rows // 4, arguments.rows)
        rank = rng.randrange(arguments.ranks - (fault == "neighbours"))
        outcomes[fault] = train_with(spark, job, fault, rank, row, arguments.ranks)
    return outcomes


def _paced(job: TrainJob, step_s: float) -> PacedJob:
    values = {name: getattr(job, name) for name in TrainJob.__dataclass_fields__}
    return PacedJob(**{**values, "has_validation": False, "last_ds": job.first_ds}, step_s=step_s)


def _cluster(ranks: int) -> SparkSession:
    # Executors work in folders of their own, and inherit this.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as properties:
        properties.write(
            f"spark.master local-cluster[{ranks},1,512]\n"
            "spark.driver.memory 1g\nspark.executor.memory 512m\n"
            "spark.driver.host localhost\nspark.driver.bindAddress 127.0.0.1\n"
            "spark.ui.enabled false\nspark.ui.showConsoleProgress false\n"
        )
        properties.flush()
        return session("bench-recovery", properties.name)


def _machine(arguments: argparse.Namespace) -> str:
    return (
        f"{machine('torch', 'horovod', 'pyspark')}; "
        f"{arguments.ranks} ranks, train.stall_s {arguments.stall_s}, "
        f"{arguments.tables} tables, copies of pieces in {arguments.table_copies}, "
        f"commits every {arguments.commit_steps} steps of {arguments.batch_rows} rows, "
        f"steps of at least {arguments.step_ms:g} ms"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1000))
    parser.add_argument("--faults", nargs="*", default=["none", "kill", "freeze", "executor"])
    parser.add_argument("--rows", type=int, default=24_000)
    parser.add_argument("--batch-rows", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--step-ms", type=float, default=25.0, help="least time of a step")
    parser.add_argument("--stall-s", type=int, default=10)
    parser.add_argument("--tables", default="replicated")
    parser.add_argument("--table-copies", default="memory")
    parser.add_argument("--checkpoint-rows", type=int, default=None)
    parser.add_argument("--commit-steps", type=int, default=20)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
