"""The search beside plain Optuna, and with halving beside without.

    make bench-tune            or: python -m benchmarks.bench_tune --days 200 --seeds 5

On the demo's flights, which are made into examples once, under data/bench-tune. Plain Optuna is as
many processes that share a journal and train the same trials by the same code, without Spark. A
study's time goes from its first trial's start to the end of the last. Halving is compared by that:
whoever waits for a study does not know its best value before. Its best has to be the same, but for
chance. Beside it stands the time to the end of the first trial that has what the study without
stopping found; that has luck in it, as the best trial may be an early one.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from pyspark.sql import SparkSession

from benchmarks.common import machine, print_figures, print_table
from jobs.base.spark import session
from jobs.etl import job as etl
from jobs.lake.ledger import new_run_id
from jobs.settings.load import load_settings
from jobs.settings.settings import Settings
from jobs.train.exchange.exchange import Alone
from jobs.train.keep.commits import RankMemory
from jobs.train.rank import train_rank
from jobs.tune import job as tune
from jobs.tune.search import search_of
from jobs.tune.study import Asked

ROOT = Path(__file__).parents[1]
SPACE = (
    "tune.space={train.learning_rate: {low: 1.0e-4, high: 0.1, log: true}, "
    "train.hidden: [[64], [128, 64]], train.dropout: {low: 0.0, high: 0.5}}"
)
# At least these factors are asked for: of plain Optuna's time at most, of halving's speed at least.
MOST_SLOWER, LEAST_FASTER = 1.15, 2.5
# Of validation AUC, between models of one study: the interval of 95 % of such a difference is wider
# even on flights' 30,000 test rows (docs/benchmarks.md, Search).
SAME = 0.002


@dataclass(frozen=True)
class Ran:
    """A study. Times in seconds: of the whole command, of its trials, and of one trial's end since
    the first began, with its value."""

    wall_s: float
    seconds: float
    ends: tuple[tuple[float, float], ...]

    @property
    def best(self) -> float:
        return max(value for _, value in self.ends)

    def until(self, value: float) -> float | None:
        """Seconds to the first trial that is as good."""
        return min((at for at, found in self.ends if found >= value), default=None)


def settings_of(args: argparse.Namespace, *overrides: str) -> Settings:
    lake = ROOT / "data" / f"bench-tune-{args.days}"
    common = [f"lake={lake}", SPACE, "tune.sampler=random", f"tune.trials={args.trials}"]
    more = [f"train.epochs={args.epochs}", f"train.batch_rows={args.batch_rows}"]
    more.append("train.curves=false")
    return load_settings(ROOT / "conf" / "flights.yaml", [*common, *more, *overrides])


def ran(journal: Path | str, wall_s: float) -> Ran:
    backend = JournalFileBackend(str(journal))
    storage = JournalStorage(backend)
    (study,) = storage.get_all_studies()
    trials = storage.get_all_trials(study._study_id)
    began = min(trial.datetime_start for trial in trials if trial.datetime_start)
    done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    ends = tuple((_since(began, trial), float(trial.value or 0.0)) for trial in done)
    return Ran(wall_s, max(_since(began, trial) for trial in trials), ends)


def _since(began: dt.datetime, trial: FrozenTrial) -> float:
    assert trial.datetime_complete is not None
    return (trial.datetime_complete - began).total_seconds()


def searched(
    args: argparse.Namespace, spark: SparkSession, *overrides: str
) -> tuple[Ran, tune.TuneResult]:
    """A study by `millstream tune`'s job, in a Spark session that is there."""
    settings, started = settings_of(args, *overrides), time.monotonic()
    name = new_run_id("bench")
    found = tune.run(settings, spark, run_id=name, name=name, parallel=args.parallel)
    return ran(f"{found.folder}/journal.log", time.monotonic() - started), found


def plainly(args: argparse.Namespace, params: Sequence[dict[str, Any]]) -> Ran:
    """The same trials by plain Optuna, in as many processes."""
    with tempfile.TemporaryDirectory() as folder:
        journal = Path(folder) / "journal.log"
        study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(journal))),
            study_name="plain",
            direction="maximize",
        )
        for one in params:
            study.enqueue_trial({}, user_attrs={"params": json.dumps(one)})
        started = time.monotonic()
        names = ("days", "epochs", "trials", "batch_rows")
        options = [f"--{name.replace('_', '-')}={getattr(args, name)}" for name in names]
        command = [sys.executable, "-m", "benchmarks.bench_tune", "--plain", folder, *options]
        processes = [subprocess.Popen(command) for _ in range(args.parallel)]
        if any(process.wait() for process in processes):
            sys.exit("a process of plain Optuna failed")
        return ran(journal, time.monotonic() - started)


def plain_process(args: argparse.Namespace) -> None:
    """One of plain Optuna's processes: it takes trials until none are left."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    settings, folder = settings_of(args), Path(args.plain)
    lake = etl.lake_of(settings)
    search = search_of(settings, lake, None, None)
    storage = JournalStorage(JournalFileBackend(str(folder / "journal.log")))
    study = optuna.load_study(study_name="plain", storage=storage)

    def objective(trial: optuna.Trial) -> float:
        job = search.job(Asked(trial.number, json.loads(trial.user_attrs["params"])))
        job = replace(job, folder=str(folder / f"trial-{trial.number}"))
        result = train_rank(job, Alone(), RankMemory())
        assert result.history.best is not None and result.history.best.val_auc is not None
        return result.history.best.val_auc

    while any(one.state == TrialState.WAITING for one in study.get_trials(deepcopy=False)):
        study.optimize(objective, n_trials=1)


def made(args: argparse.Namespace, spark: SparkSession) -> int:
    """The examples, made once; returns the rows to train on."""
    settings = settings_of(args)
    lake = etl.lake_of(settings)
    if not lake.table("examples").exists():
        first = dt.date(2013, 1, 1)
        days = [str(first + dt.timedelta(day)) for day in range(args.days)]
        etl.run(settings, spark, run_id=new_run_id("etl"), dates=days)
    return search_of(settings, lake, None, None).epoch_rows


def beside_plain(args: argparse.Namespace, spark: SparkSession) -> dict[str, float]:
    ours, found = searched(args, spark, "tune.stopping=none")
    plain = plainly(args, [one.params for one in found.told])
    assert ours.best == plain.best, "the trials are not the same"
    rows = [
        ("millstream tune", f"{ours.wall_s:.1f}", f"{ours.seconds:.1f}"),
        ("plain Optuna", f"{plain.wall_s:.1f}", f"{plain.seconds:.1f}"),
        ("times", f"{ours.wall_s / plain.wall_s:.2f}", f"{ours.seconds / plain.seconds:.2f}"),
    ]
    print_table(("equal trials", "whole, s", "trials, s"), rows)
    return {"wall": ours.wall_s / plain.wall_s, "trials": ours.seconds / plain.seconds}


@dataclass(frozen=True)
class Halved:
    """A study with halving beside the same without."""

    seed: int
    whole: Ran
    halved: Ran

    @property
    def study_faster(self) -> float:
        """How many times earlier the study ends; 0 where its best is worse by more than chance."""
        is_same = self.halved.best >= self.whole.best - SAME
        return self.whole.seconds / self.halved.seconds if is_same else 0.0

    @property
    def best_faster(self) -> float:
        """How many times earlier a trial has the best value without; 0 where none ever has."""
        at, without = self.halved.until(self.whole.best), self.whole.until(self.whole.best)
        assert without is not None
        return without / at if at is not None else 0.0

    def line(self) -> tuple[str, ...]:
        """A line of the table; `with_halving` has its head."""
        best = self.whole.best
        at = [run.until(best) for run in (self.whole, self.halved)]
        return (
            *(f"{self.seed}", f"{best:.4f}", f"{self.halved.best:.4f}"),
            *(f"{self.whole.seconds:.1f}", f"{self.halved.seconds:.1f}"),
            f"{self.study_faster:.2f}",
            *("never" if one is None else f"{one:.1f}" for one in at),
            f"{self.best_faster:.2f}",
        )


def with_halving(args: argparse.Namespace, spark: SparkSession) -> list[Halved]:
    found = []
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        whole, _ = searched(args, spark, "tune.stopping=none", f"tune.seed={seed}")
        halved, _ = searched(args, spark, "tune.stopping=halving", f"tune.seed={seed}")
        found.append(Halved(seed, whole, halved))
    head = ("seed", "best without", "with", "study without, s", "with, s", "times faster")
    more = ("to the best without, s", "with, s", "times faster")
    print_table((*head, *more), [one.line() for one in found])
    return found


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--days", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--parallel", type=int, default=2)
    parser.add_argument("--batch-rows", type=int, default=2048)
    parser.add_argument("--seeds", type=int, default=5, help="of halving's comparison")
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--only", choices=("plain", "halving"), help="one of the comparisons")
    parser.add_argument("--plain", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.plain:
        plain_process(args)
        return 0
    spark = session("millstream bench", str(ROOT / "conf" / "spark" / "local.conf"))
    print(f"{made(args, spark):,} rows; {machine('optuna', 'torch', 'pyspark')}\n")
    figures: dict[str, object] = {}
    is_slower = is_slow = False
    if args.only != "halving":
        figures["beside_plain"] = slower = beside_plain(args, spark)
        is_slower = slower["wall"] > MOST_SLOWER
        print()
    if args.only != "plain":
        found = with_halving(args, spark)
        faster = median(one.study_faster for one in found)
        to_best = median(one.best_faster for one in found)
        figures |= {"halving_faster": faster, "to_best_faster": to_best}
        is_slow = faster < LEAST_FASTER
    print_figures(figures)
    return int(is_slower or is_slow)


if __name__ == "__main__":
    sys.exit(main())
