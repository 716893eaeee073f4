"""Training's speed: the stream against memory, and what the exchange of embeddings costs.

    python -m benchmarks.bench_train --rows 500000

1. DLRM on data in Criteo's format, from the stream and from the same batches in memory, by the
   same loop; then with checkpoints.
2. A step at 2 ranks over 26 tables of 100,000 x 16 with Zipf-distributed ids: without exchange,
   with ours, with a dense allreduce, and with Horovod's own sparse path.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common import machine, print_figures, print_table
from benchmarks.train_exchange import DIM, TABLE_ROWS, TABLES, Cost, exchanges
from benchmarks.train_sources import OVERRIDES, by_source, made_job
from jobs.settings.load import load_settings
from jobs.train.launch.rank_job import TrainJob
from jobs.train.launch.ranks import launch


def train_table(job: TrainJob, spark: Any, repeats: int) -> dict[str, float]:
    figures: dict[str, float] = {}
    rows, lines = 0, []
    for workers in (1, 2):
        folder = tempfile.mkdtemp()
        train = job.settings.train.model_copy(update={"workers": workers})
        settings = job.settings.model_copy(update={"train": train})
        own = replace(job, settings=settings, folder=folder)
        work = partial(by_source, own, repeats)
        first = launch(work, spark=spark, workers=workers, settings=train, folder=folder)[0]
        rows = sum(shard.rows for shard in job.examples.shards("train"))
        median = {name: statistics.median(values) for name, values in first.items()}
        # Neighbours in time are compared, so that a slow minute slows both.
        pairs = zip(first["memory"], first["stream"], strict=True)
        ratio = statistics.median(memory / stream for memory, stream in pairs)
        share = statistics.median(
            commit / whole
            for commit, whole in zip(first["commits"], first["checkpoints"], strict=True)
        )
        figures |= {
            f"memory_rows_per_s_{workers}": rows / median["memory"],
            f"stream_rows_per_s_{workers}": rows / median["stream"],
            f"stream_over_memory_{workers}": ratio,
            f"two_checkpoints_share_{workers}": share,
        }
        lines.append(
            [
                str(workers),
                f"{rows / median['memory']:,.0f}",
                f"{rows / median['stream']:,.0f}",
                f"{ratio:.3f}",
                f"{100 * share:.2f} %",
            ]
        )
    print(f"\nDLRM, {rows:,} rows an epoch, batches of {job.settings.train.batch_rows:,}\n")
    head = ["ranks", "memory, rows/s", "stream, rows/s", "stream / memory", "two checkpoints"]
    print_table(head, lines)
    return figures


def exchange_table(found: list[dict[str, Cost]], rows: int, exponent: float) -> dict[str, float]:
    # Ranks start a step together, and it is done when the slowest is, with or without exchange.
    slowest = {
        name: statistics.median(map(max, zip(*(rank[name].ms for rank in found), strict=True)))
        for name in found[0]
    }
    sent = {name: cost.bytes for name, cost in found[0].items()}
    alone, horovod = slowest["no exchange"], sent["Horovod's sparse path"]
    print(
        f"\nA step at {len(found)} ranks: {TABLES} tables of {TABLE_ROWS:,} x {DIM}, {rows:,} rows "
        f"a rank, ids by Zipf's law with exponent {exponent}, Adagrad\n"
    )
    lines = [
        [
            name,
            f"{slowest[name]:.1f}",
            f"{slowest[name] / alone:.2f}",
            f"{sent[name] / 2**20:.2f}",
            f"{sent[name] / horovod:.2f}",
        ]
        for name in slowest
    ]
    head = ["exchange", "ms a step", "/ none", "MiB sent a rank", "/ Horovod's sparse"]
    print_table(head, lines)
    short = {name: name.replace(",", "").replace("'", "").replace(" ", "_") for name in slowest}
    figures: dict[str, float] = {f"{short[name]}_ms": slowest[name] for name in slowest}
    figures |= {f"{short[name]}_bytes": sent[name] for name in slowest}
    figures["sparse_over_none"] = slowest["sparse"] / alone
    figures["sparse_bytes_over_horovods"] = sent["sparse"] / horovod
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2_000_000, help="of the Criteo-format data")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--step-rows", type=int, default=2_048, help="a rank, in the exchange")
    parser.add_argument("--exponent", type=float, default=1.05, help="of Zipf's law")
    parser.add_argument("--only", choices=("stream", "exchange"))
    parser.add_argument("--data", type=Path, default=Path("data/bench-train"))
    asked = parser.parse_args()

    from jobs.base.spark import session

    figures: dict[str, float] = {}
    job = None
    if asked.only != "exchange":
        job = made_job(asked.data.resolve() / str(asked.rows), asked.rows)
    spark = session("bench-train", str(Path("conf/spark/local.conf").resolve()))
    print(machine("torch", "horovod", "petastorm", "pyspark"))
    if job is not None:
        figures |= train_table(job, spark, asked.repeats)
    if asked.only != "stream":
        settings = load_settings("conf/criteo.yaml", OVERRIDES).train
        work = partial(exchanges, settings, asked.step_rows, asked.exponent, asked.repeats)
        folder = tempfile.mkdtemp()
        found = launch(work, spark=spark, workers=2, settings=settings, folder=folder)
        figures |= exchange_table(found, asked.step_rows, asked.exponent)
    print_figures(figures)


if __name__ == "__main__":
    main()
