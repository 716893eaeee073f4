"""What the same bits at any number of ranks cost: a step slice by slice beside one at once.

    make bench-slices        or: python -m benchmarks.bench_slices --batch-rows 4096

DLRM over 26 tables of 100,000 x 16 with ids by Zipf's law, replicated and sharded, at 1 and 2
ranks.
That the bits are the same is measured on flights by `bench_table_quality`.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from benchmarks.bench_tables import replicated_step, sharded_step, slowest, timed
from benchmarks.common import machine, print_figures, print_table
from benchmarks.train_exchange import DIM, TABLE_ROWS, TABLES, Cost, zipf_batches
from benchmarks.train_sources import OVERRIDES
from jobs.base.spark import session
from jobs.batch.batch import Batch
from jobs.settings.load import load_settings
from jobs.settings.train import TrainSettings
from jobs.train.exchange.exchange import Exchange
from jobs.train.keep.commits import RankMemory
from jobs.train.launch.ranks import launch
from jobs.train.order.share import RankShare
from jobs.train.order.slices import Slices

STREAMS, COUNTS = 64, (1, 4, 8, 16)
MAKERS = {"replicated": replicated_step, "sharded": sharded_step}


def pieces(batches: Sequence[Batch], count: int, exchange: Exchange) -> list[Batch]:
    """A rank's rows of global batches that have `count` slices."""
    share = RankShare(0, STREAMS, STREAMS, exchange.rank, exchange.size, count)
    owned = torch.from_numpy(share.owned)
    return [
        batch[torch.isin(batch.position % STREAMS, owned).nonzero().squeeze(1)] for batch in batches
    ]


def by_count(
    settings: TrainSettings, rows: int, repeats: int, exchange: Exchange, memory: RankMemory
) -> dict[str, Cost]:
    torch.set_num_threads(settings.threads_per_rank)
    spec, batches = zipf_batches(20, rows, 1.05, 0)
    ways = {}
    for tables, maker in MAKERS.items():
        for count in COUNTS:
            own = settings.model_copy(update={"gradient_slices": count, "tables": tables})
            slices = Slices.asked(count, STREAMS, exchange.rank, exchange.size)
            step = maker(spec, own, exchange, slices)
            ways[f"{tables} {count}"] = step, pieces(batches, count, exchange)
    return timed(ways, repeats, exchange)


def cost_table(found: dict[int, Sequence[dict[str, Cost]]], rows: int) -> dict[str, float]:
    print(f"\nA step of {rows:,} rows: {TABLES} tables of {TABLE_ROWS:,} x {DIM}, Adagrad\n")
    lines, figures = [], {}
    for tables in MAKERS:
        for ranks, costs in found.items():
            alone = slowest(costs, f"{tables} 1")
            for count in COUNTS:
                name = f"{tables} {count}"
                ms, sent = slowest(costs, name), costs[0][name].bytes
                title = "none" if count == 1 else str(count)
                row = [tables, str(ranks), title, f"{ms:.1f}", f"{ms / alone:.2f}"]
                lines.append([*row, f"{sent / 2**20:.2f}"])
                figures[f"{tables}_{ranks}_ranks_{count}_ms"] = ms
                figures[f"{tables}_{ranks}_ranks_{count}_bytes"] = sent
    print_table(["tables", "ranks", "slices", "ms a step", "/ none", "MiB sent by rank 0"], lines)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch-rows", type=int, default=4_096, help="of all ranks together")
    asked = parser.parse_args()
    spark = session("bench-slices", str(Path("conf/spark/local.conf").resolve()))
    print(machine("torch", "horovod", "pyspark"))
    settings = load_settings("conf/criteo.yaml", OVERRIDES).train
    work = partial(by_count, settings, asked.batch_rows, asked.repeats)
    found = {}
    for ranks in (1, 2):
        folder = tempfile.mkdtemp()
        found[ranks] = launch(work, spark=spark, workers=ranks, settings=settings, folder=folder)
    print_figures(cost_table(found, asked.batch_rows))


if __name__ == "__main__":
    main()
