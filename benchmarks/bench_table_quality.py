"""What sharded tables, short rows and one moment a row do to a model.

    make bench-table-quality        or: python -m benchmarks.bench_table_quality --only clicks

1. Test AUC on clicks by Criteo's planted model, DLRM at 2 ranks: sharded tables beside replicated
   ones, rows of two bytes, and `row_adagrad` beside Adagrad.
2. Flights, with the demo's model, sharded tables, no dropout: how far weights at 2 and 3 ranks are
   from those at 1, in float32, in float32 with gradient slices, and where all is float64.

The examples are those of `bench_search_quality`.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from typing import Any

import torch
from pyspark.sql import SparkSession

from benchmarks.bench_search_quality import CONFIDENCE, Asked, measured
from benchmarks.common import machine, print_figures, print_table, session_for
from jobs.etl import job as etl
from jobs.evaluate.measure.jackknife import margin
from jobs.evaluate.measure.metrics import Metrics
from jobs.lake.examples import Examples
from jobs.lake.ledger import new_run_id
from jobs.lake.state import load_state
from jobs.models.artifact import load_model
from jobs.models.build import Model, build_model
from jobs.settings.settings import Settings
from jobs.train import job as train
from jobs.train import rank as rank_module
from jobs.train.exchange.exchange import Exchange
from jobs.train.keep.commits import RankMemory
from jobs.train.launch.rank_job import RankResult, TrainJob
from jobs.train.launch.ranks import launch
from jobs.train.rank import train_rank

ADAGRAD = ("train.optimizer=adagrad", "train.learning_rate=0.02")
ROW_ADAGRAD = ("train.optimizer=row_adagrad", "train.learning_rate=0.02")
SHARDED = ("train.tables=sharded",)
WAYS: dict[str, tuple[str, ...]] = {
    "replicated": (),
    "sharded": SHARDED,
    "sharded, float16": (*SHARDED, "train.table_dtype=float16"),
    "sharded, bfloat16": (*SHARDED, "train.table_dtype=bfloat16"),
    "replicated, adagrad": ADAGRAD,
    "sharded, row_adagrad": (*SHARDED, *ROW_ADAGRAD),
    "sharded, row_adagrad, float16": (*SHARDED, *ROW_ADAGRAD, "train.table_dtype=float16"),
}
BESIDE = {name: "replicated, adagrad" if "adagrad" in name else "replicated" for name in WAYS}
SAME_AUC, SAME_WEIGHTS = 0.0005, 1e-6


def trained(settings: Settings, spark: SparkSession) -> Metrics:
    """The metrics of a model on the test rows."""
    result = train.run(settings, spark, run_id=new_run_id("train"), resume="never")
    return measured(settings, spark, result.version)


def clicks(spark: SparkSession, rows: int) -> dict[str, float]:
    asked = Asked("criteo", 0, 0, rows)
    asked.make(spark)
    found: dict[str, Metrics] = {}
    for name, overrides in WAYS.items():
        found[name] = trained(asked.settings(*overrides), spark)
    lines, figures = [], {}
    for name, own in found.items():
        other = found[BESIDE[name]]
        change = own.values["auc"] - other.values["auc"]
        sure = margin(own.replicates["auc"] - other.replicates["auc"], CONFIDENCE)
        said = "" if own is other else f"{change:+.5f} ± {sure:.5f}"
        lines.append([name, f"{own.values['auc']:.5f}", said])
        figures |= {f"{name} auc": own.values["auc"], f"{name} change": change}
    print(f"\nPlanted clicks, {found['replicated'].rows:,} test rows, 2 ranks\n")
    print_table(["tables", "test AUC", "beside replicated with that optimizer"], lines)
    apart = abs(figures["sharded change"])
    print(f"\nsharded apart from replicated {apart:.5f}, at most {SAME_AUC}: {apart <= SAME_AUC}")
    return figures


def in_float64(job: TrainJob, exchange: Exchange, memory: RankMemory) -> RankResult:
    """Trains with all weights and sums in float64."""

    def doubled(*given: Any, **more: Any) -> Model:
        return build_model(*given, **more).double()

    rank_module.build_model = doubled  # type: ignore[attr-defined]
    try:
        return train_rank(job, exchange, memory)
    finally:
        rank_module.build_model = build_model  # type: ignore[attr-defined]


def flight_weights(
    spark: SparkSession, settings: Settings, work: Any, ranks: int
) -> dict[str, torch.Tensor]:
    """Of the best epoch's model."""
    lake = etl.lake_of(settings)
    examples = Examples.open(lake.table("examples").url)
    dates = train.select_dates(examples, settings.dataset(), None, None)
    state = load_state(lake, examples.info["states"][dates[-1]])
    job = train.job_of(settings, lake, examples, dates, state, new_run_id("train"))
    with tempfile.TemporaryDirectory() as folder:
        results = launch(
            partial(work, job), spark=spark, workers=ranks, settings=settings.train, folder=folder
        )
    best = min(results, key=lambda result: result.rank).history.best
    assert best is not None
    return load_model(job.best_folder(best.epoch), map_files=False).model.state_dict()


SLICED = "float32, 8 gradient slices"
PRECISIONS: tuple[tuple[str, Any, tuple[str, ...]], ...] = (
    ("float32", train_rank, ()),
    (SLICED, train_rank, ("train.gradient_slices=8",)),
    ("float64", in_float64, ()),
)


def flights(spark: SparkSession) -> dict[str, float]:
    asked = Asked("flights", 0, 0, 0)
    asked.make(spark)
    lines, figures = [], {}
    for title, work, overrides in PRECISIONS:
        settings = asked.settings(*SHARDED, "train.dropout=0", *overrides)
        one, *others = (flight_weights(spark, settings, work, ranks) for ranks in (1, 2, 3))
        apart = [max(float((one[n] - of[n]).abs().max()) for n in one) for of in others]
        lines.append([title, *(f"{of:.1e}" for of in apart)])
        figures[f"flights_{title}"] = max(apart)
    print("\nFlights, the demo's model with sharded tables: weights beside those of 1 rank\n")
    print_table(["all in", "at 2 ranks, largest difference", "at 3 ranks"], lines)
    for title in (SLICED, "float64"):
        apart_most = figures[f"flights_{title}"]
        print(f"\n{title} {apart_most:.1e}, at most {SAME_WEIGHTS}: {apart_most <= SAME_WEIGHTS}")
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=200_000, help="of clicks")
    parser.add_argument("--only", choices=("clicks", "flights"))
    args = parser.parse_args()
    spark = session_for("millstream bench", ranks=3)
    print(machine("torch", "horovod", "pyspark"))
    figures: dict[str, float] = {}
    if args.only in (None, "clicks"):
        figures |= clicks(spark, args.rows)
    if args.only in (None, "flights"):
        figures |= flights(spark)
    print_figures(figures)


if __name__ == "__main__":
    main()
