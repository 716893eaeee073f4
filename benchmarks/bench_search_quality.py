"""What searching is good for: the winners of each sampler beside the settings as they stand.

    make bench-search-quality        or: python -m benchmarks.bench_search_quality --data flights

On eleven months of the demo's flights, and on clicks by Criteo's planted model. They are made into
examples once, under data/bench-search; studies stay there too, so that a sampler a command, and all
in a last one, is the same as all at once. The winner is chosen on validation rows; the table is of
test rows that no trial saw, with intervals of 95 %, and of the change against the model with the
settings of `conf/`, on the same rows.
"""

from __future__ import annotations

import argparse
import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from benchmarks.common import machine, print_figures, print_table
from benchmarks.make_criteo import write_days
from jobs.base.spark import session
from jobs.etl import job as etl
from jobs.evaluate import job as evaluate
from jobs.evaluate.measure.jackknife import margin
from jobs.evaluate.measure.metrics import Metrics
from jobs.lake.ledger import new_run_id
from jobs.settings.load import load_settings
from jobs.settings.settings import Settings
from jobs.train import job as train
from jobs.tune import job as tune

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "data" / "bench-search"
SAMPLERS = ("random", "quasi_random", "tpe", "gp", "cmaes", "bohamiann")
METRICS = ("auc", "log_loss")
CONFIDENCE = 0.95
# Ranges alone, which is all that CMA-ES takes; the others choose from the lists, too.
RANGES = {
    "flights": (
        "train.learning_rate: {low: 3.0e-4, high: 1.0e-2, log: true}, "
        "train.dropout: {low: 0.0, high: 0.5}, train.max_embedding_dim: {low: 2, high: 16}, "
        "train.weight_decay: {low: 1.0e-7, high: 1.0e-2, log: true}"
    ),
    "criteo": (
        "train.learning_rate: {low: 5.0e-4, high: 2.0e-2, log: true}, "
        "train.dropout: {low: 0.0, high: 0.3}, train.embedding_dim: {low: 2, high: 16}, "
        "train.weight_decay: {low: 1.0e-7, high: 1.0e-2, log: true}"
    ),
}
LISTS = {
    "flights": (
        "train.model: [wide_deep, mlp, dcn_v2], train.hidden: [[64], [128, 64], [256, 128]], "
        "train.leave_out: [[], [plane, flight_number], [day_of_year]]"
    ),
    "criteo": (
        "train.model: [dlrm, wide_deep, dcn_v2], train.hidden: [[64], [128, 64], [256, 128]]"
    ),
}


@dataclass(frozen=True)
class Asked:
    """What the command line asks for."""

    data: str
    trials: int
    parallel: int
    rows: int

    def settings(self, *overrides: str) -> Settings:
        common = (f"lake={FOLDER / self.data}", "train.curves=false", "gate.rows=all")
        return load_settings(ROOT / "conf" / f"{self.data}.yaml", [*common, *self._raw, *overrides])

    def search(self, sampler: str) -> Settings:
        lists = "" if sampler == "cmaes" else f", {LISTS[self.data]}"
        return self.settings(
            f"tune.space={{{RANGES[self.data]}{lists}}}",
            f"tune.sampler={sampler}",
            f"tune.trials={self.trials}",
        )

    @property
    def _raw(self) -> tuple[str, ...]:
        if self.data == "flights":
            return ()
        return (f"etl.sources.criteo={FOLDER / 'raw' / 'day_{ds}*'}",)

    @cached_property
    def days(self) -> list[str]:
        if self.data == "criteo":
            return ["2026-01-01"]
        first = dt.date(2013, 1, 1)
        return [str(first + dt.timedelta(day)) for day in range(334)]

    def make(self, spark: SparkSession) -> None:
        """The examples, where they are not there yet."""
        lake = etl.lake_of(self.settings())
        if lake.table("examples").exists():
            return
        if self.data == "criteo":
            write_days(FOLDER / "raw", self.rows, self.days, seed=7)
        etl.run(self.settings(), spark, run_id=new_run_id("etl"), dates=self.days)


@dataclass(frozen=True)
class Found:
    """A model on the test rows, and what it took to find.

    Attributes:
        value: of the validation rows.
        rows: that were trained.
    """

    title: str
    metrics: Metrics
    value: float
    rows: int
    params: Mapping[str, Any]

    def line(self, beside: Found | None) -> tuple[str, ...]:
        cells = [self.title, f"{self.value:.4f}"]
        for name in METRICS:
            cells.append(f"{self.metrics.values[name]:.4f} ± {self.metrics.margin(name):.4f}")
            change, sure = self.change(name, beside) if beside else (0.0, 0.0)
            cells.append(f"{change:+.4f} ± {sure:.4f}" if beside else "")
        return (*cells, f"{self.rows / 1e6:.1f}")

    def change(self, name: str, beside: Found) -> tuple[float, float]:
        """The difference of a metric on the same rows, and half the width of its interval."""
        ours, theirs = self.metrics, beside.metrics
        sure = margin(ours.replicates[name] - theirs.replicates[name], CONFIDENCE)
        return ours.values[name] - theirs.values[name], sure


def measured(settings: Settings, spark: SparkSession, version: str) -> Metrics:
    run = new_run_id("evaluate")
    return evaluate.run(settings, spark, run_id=run, model=version).metrics


def as_it_stands(asked: Asked, spark: SparkSession) -> Found:
    """The model with the settings of `conf/`, trained by one rank as trials are."""
    settings = asked.settings()
    trained = train.run(settings, spark, run_id=new_run_id("train"), workers=1, resume="never")
    metrics = measured(settings, spark, trained.version)
    rows = sum(epoch.rows for epoch in trained.history)
    return Found("as it stands", metrics, trained.best.val_auc or 0.0, rows, {})


def searched(asked: Asked, spark: SparkSession, sampler: str) -> Found:
    """The winner of a sampler's study."""
    settings = asked.search(sampler)
    name = f"{sampler}-{asked.trials}"
    found = tune.run(settings, spark, run_id=new_run_id("tune"), name=name, parallel=asked.parallel)
    assert found.best is not None and found.best.value is not None
    metrics = measured(settings, spark, found.version)
    rows = sum(one.rows for one in found.told)
    print(f"{found.summary()}\n", flush=True)
    return Found(sampler, metrics, found.best.value, rows, found.best.params)


def figures_of(stands: Found, winners: Sequence[Found]) -> dict[str, Any]:
    return {
        one.title: {
            "params": one.params,
            "rows": one.rows,
            "val_auc": one.value,
            **{name: one.metrics.values[name] for name in METRICS},
            **{f"{name}_change": one.change(name, stands) for name in METRICS},
        }
        for one in (stands, *winners)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=sorted(RANGES), required=True)
    parser.add_argument("--samplers", default=",".join(SAMPLERS))
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--parallel", type=int, default=2)
    parser.add_argument("--rows", type=int, default=400_000, help="of Criteo's clicks")
    args = parser.parse_args()
    asked = Asked(args.data, args.trials, args.parallel, args.rows)
    spark = session("millstream bench", str(ROOT / "conf" / "spark" / "local.conf"))
    asked.make(spark)
    print(f"{machine('optuna', 'torch', 'pyspark')}\n")
    stands = as_it_stands(asked, spark)
    winners = [searched(asked, spark, sampler) for sampler in args.samplers.split(",")]
    rows = f"{stands.metrics.rows:,} test rows"
    head = ("settings", "val AUC", "test AUC", "change", "test log loss", "change", "M rows")
    print(f"{args.data}, {args.trials} trials a sampler, {rows}:\n")
    print_table(head, [stands.line(None), *(one.line(stands) for one in winners)])
    print_figures(figures_of(stands, winners))


if __name__ == "__main__":
    main()
