"""What sharded tables cost: a step's time, how it grows with the tables, and a rank's memory.

    make bench-tables        or: python -m benchmarks.bench_tables --only memory

1. A step of DLRM at 2 ranks over Gloo, 26 tables of 100,000 x 16 with Zipf-distributed ids,
   Adagrad: sharded, replicated and without exchange, in turn; with the bytes that rank 0 sends.
2. The same with three tables, also 10 and 100 times as large, over which the same ids are spread.
3. The memory that a rank takes for sharded tables, by the number of ranks, with what commits keep.
4. The first step's tables at one rank, beside TorchRec's sharded DLRM (`tools/torchrec_world.txt`).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch

from benchmarks.common import machine, print_figures, print_table, session_for
from benchmarks.train_exchange import DIM, TABLE_ROWS, TABLES, Cost, zipf_batches
from benchmarks.train_sources import OVERRIDES
from jobs.batch.batch import Batch
from jobs.models.build import build_model
from jobs.models.spec import ModelSpec
from jobs.settings.load import load_settings
from jobs.settings.train import TrainSettings
from jobs.train.exchange.exchange import Alone, Exchange
from jobs.train.keep.commits import RankMemory
from jobs.train.keep.snapshot import take
from jobs.train.launch.ranks import launch
from jobs.train.order.slices import Slices
from jobs.train.step.history import Position
from jobs.train.step.rowledger import RowLedger
from jobs.train.step.step import Step
from jobs.train.tables.table import shard
from tests.builders.torchrec_problems import torchrecs

GROWTH_TABLES, GROWTH, MEMORY_FACTOR = 3, (1, 10, 100), 4
SLOWER, FLAT = 1.25, 1.15
Way = tuple[Step, Sequence[Batch]]


def sharded_step(
    spec: ModelSpec, settings: TrainSettings, exchange: Exchange, slices: Slices | None = None
) -> Step:
    torch.manual_seed(1)
    model = build_model("dlrm", spec, with_tables=False)
    settings = settings.model_copy(update={"tables": "sharded"})
    tables = shard(model, settings, exchange.rank, exchange.size, torch.device("cpu"))
    for table in tables:
        # Quicker than fresh rows, and as good to measure with.
        with torch.no_grad():
            table.piece.fill_(0.01)
    return Step(model, settings, exchange, tables, slices)


def replicated_step(
    spec: ModelSpec, settings: TrainSettings, exchange: Exchange, slices: Slices | None = None
) -> Step:
    torch.manual_seed(1)
    return Step(build_model("dlrm", spec), settings, exchange, slices=slices)


def timed(ways: dict[str, Way], repeats: int, exchange: Exchange) -> dict[str, Cost]:
    """All ways take turns, batch by batch, so that a slow second of the machine slows all.

    Each step knows the batch of the next one, as in training.
    """
    found = {name: Cost([], 0) for name in ways}
    names = list(ways)
    count = len(ways[names[0]][1])
    for turn in range(repeats + 1):
        for number in range(count):
            first = number % len(names)
            for name in names[first:] + names[:first]:
                step, batches = ways[name]
                exchange.start_sums([torch.zeros(1)]).result()
                before, started = exchange.bytes_sent, time.perf_counter()
                step.run(batches[number], upcoming=[batches[(number + 1) % count]])
                found[name].bytes = exchange.bytes_sent - before
                if turn:
                    found[name].ms.append(1000 * (time.perf_counter() - started))
    for step, _ in ways.values():
        step.sharded.forget()
    return found


def by_way(
    settings: TrainSettings, rows: int, repeats: int, exchange: Exchange, memory: RankMemory
) -> dict[str, Cost]:
    torch.set_num_threads(settings.threads_per_rank)
    spec, batches = zipf_batches(20, rows, 1.05, exchange.rank)
    steps = {
        "no exchange": replicated_step(spec, settings, Alone()),
        "replicated": replicated_step(spec, settings, exchange),
        "sharded": sharded_step(spec, settings, exchange),
    }
    return timed({name: (step, batches) for name, step in steps.items()}, repeats, exchange)


def by_size(
    settings: TrainSettings, rows: int, repeats: int, exchange: Exchange, memory: RankMemory
) -> dict[str, Cost]:
    torch.set_num_threads(settings.threads_per_rank)
    ways: dict[str, Way] = {}
    _, batches = zipf_batches(20, rows, 1.05, exchange.rank, GROWTH_TABLES)
    for factor in GROWTH:
        spec, _ = zipf_batches(1, 1, 1.05, exchange.rank, GROWTH_TABLES, factor)
        # The same ids, spread over larger tables.
        spread = [replace(batch, sparse=batch.sparse * factor) for batch in batches]
        ways[str(factor)] = sharded_step(spec, settings, exchange), spread
    return timed(ways, repeats, exchange)


def memory_of(settings: TrainSettings, exchange: Exchange, memory: RankMemory) -> int:
    """Bytes that a rank takes for tables, moments and what a commit keeps of them."""
    process = psutil.Process()
    spec, batches = zipf_batches(2, 512, 1.05, exchange.rank, factor=MEMORY_FACTOR)
    before = process.memory_info().rss
    step = sharded_step(spec, settings, exchange)
    step.run(batches[0])
    snapshot = take(step, Position(), RowLedger())
    step.run(batches[1])
    take(step, Position(row=1), RowLedger(), snapshot, snapshot.tables)
    return process.memory_info().rss - before


def slowest(found: Sequence[dict[str, Cost]], name: str) -> float:
    """Ranks start a step together, and it is done when the slowest is."""
    return statistics.median(map(max, zip(*(rank[name].ms for rank in found), strict=True)))


def way_table(found: Sequence[dict[str, Cost]], rows: int) -> dict[str, float]:
    print(f"\nA step at 2 ranks: {TABLES} tables of {TABLE_ROWS:,} x {DIM}, {rows:,} rows a rank\n")
    ms = {name: slowest(found, name) for name in found[0]}
    ratio = ms["sharded"] / ms["replicated"]
    lines = [
        [name, f"{of:.1f}", f"{of / ms['replicated']:.2f}", f"{found[0][name].bytes / 2**20:.2f}"]
        for name, of in ms.items()
    ]
    print_table(["tables", "ms a step", "/ replicated", "MiB sent by rank 0"], lines)
    print(f"\nsharded / replicated {ratio:.2f}, at most {SLOWER}: {ratio <= SLOWER}")
    return {f"{name.replace(' ', '_')}_ms": of for name, of in ms.items()} | {
        "sharded_over_replicated": ratio,
        "sharded_bytes": found[0]["sharded"].bytes,
        "replicated_bytes": found[0]["replicated"].bytes,
    }


def growth_table(found: Sequence[dict[str, Cost]]) -> dict[str, float]:
    print(f"\nA step at 2 ranks by the size of {GROWTH_TABLES} sharded tables\n")
    ms = {name: slowest(found, name) for name in found[0]}
    lines = [
        [f"{TABLE_ROWS * int(name):,} x {DIM}", f"{of:.1f}", f"{of / ms['1']:.2f}"]
        for name, of in ms.items()
    ]
    print_table(["each table", "ms a step", "/ smallest"], lines)
    largest = ms[str(GROWTH[-1])] / ms["1"]
    print(f"\n{GROWTH[-1]} times as large {largest:.2f}, at most {FLAT}: {largest <= FLAT}")
    return {f"grown_{name}_ms": of for name, of in ms.items()} | {"grown_ratio": largest}


def memory_table(taken: dict[int, int]) -> dict[str, float]:
    state = 2 * TABLES * TABLE_ROWS * MEMORY_FACTOR * DIM * 4
    print(f"\nMemory of a rank for {state / 2**20:,.0f} MiB of tables and Adagrad's sums\n")
    lines = [[str(ranks), f"{of / 2**20:,.0f}", f"{of / state:.2f}"] for ranks, of in taken.items()]
    print_table(["ranks", "MiB, with what a commit keeps", "/ tables and moments"], lines)
    return {f"memory_{ranks}_over_state": of / state for ranks, of in taken.items()}


def torchrec_table(settings: TrainSettings, rows: int, repeats: int) -> dict[str, float]:
    """Both in one thread of a process of their own, one after the other; the first turn is left."""
    spec, batches = zipf_batches(20, rows, 1.05, 0)
    torch.set_num_threads(1)
    step = sharded_step(replace(spec, bottom_hidden=(64,)), settings, Alone())
    with tempfile.TemporaryDirectory() as folder:
        given = settings.optimizer, settings.learning_rate, Path(folder), repeats + 1
        theirs = torchrecs(step, batches, *given).seconds[len(batches) :]
    ours = timed({"ours": (step, batches)}, repeats, Alone())["ours"].ms
    ms = {"Millstream": statistics.median(ours), "TorchRec": 1000 * statistics.median(theirs)}
    print(f"\nA step at one rank, beside TorchRec 1.8.0: {TABLES} tables, {rows:,} rows\n")
    lines = [[name, f"{of:.1f}", f"{rows / of * 1000:,.0f}"] for name, of in ms.items()]
    print_table(["", "ms a step", "samples/s"], lines)
    return {"ours_alone_ms": ms["Millstream"], "torchrec_ms": ms["TorchRec"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--step-rows", type=int, default=2_048, help="a rank")
    parser.add_argument("--only", choices=("ways", "growth", "memory", "torchrec"))
    asked = parser.parse_args()

    spark = session_for("bench-tables", ranks=4)
    print(machine("torch", "horovod", "pyspark"))
    settings = load_settings("conf/criteo.yaml", OVERRIDES).train

    def found(work: Any, ranks: int = 2) -> list[Any]:
        folder = tempfile.mkdtemp()
        return launch(work, spark=spark, workers=ranks, settings=settings, folder=folder)

    figures: dict[str, float] = {}
    if asked.only in (None, "ways"):
        work = partial(by_way, settings, asked.step_rows, asked.repeats)
        figures |= way_table(found(work), asked.step_rows)
    if asked.only in (None, "growth"):
        figures |= growth_table(found(partial(by_size, settings, asked.step_rows, asked.repeats)))
    if asked.only in (None, "memory"):
        taken = {n: max(found(partial(memory_of, settings), n)) for n in (1, 2, 3, 4)}
        figures |= memory_table(taken)
    if asked.only in (None, "torchrec"):
        figures |= torchrec_table(settings, asked.step_rows, asked.repeats)
    print_figures(figures)


if __name__ == "__main__":
    main()
