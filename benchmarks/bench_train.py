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
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import machine, measured, print_figures, print_table
from jobs.examples import Examples
from jobs.lake import Lake
from jobs.settings import Settings, load_settings
from jobs.state import load_state
from jobs.train.batch import Batch
from jobs.train.commits import Committer, Memory, Writer
from jobs.train.distributed import launch
from jobs.train.history import Position
from jobs.train.loop import Batches, Commits, fit
from jobs.train.models import Model, ModelSpec, build_model, embedding_tables, row_losses
from jobs.train.progress import Silent
from jobs.train.rank import TrainJob
from jobs.train.rowledger import RowCount, RowLedger
from jobs.train.snapshot import take
from jobs.train.step import Alone, Exchange, Step

TABLES, TABLE_ROWS, DIM, NUMBERS = 26, 100_000, 16, 13
OVERRIDES = (
    "train.model=dlrm",
    "train.embedding_dim=16",
    "train.optimizer=adagrad",
    "train.learning_rate=0.01",
    "train.epochs=1",
)

# 1. From raw files to a training job


def made_job(folder: Path, rows: int) -> TrainJob:
    """Data in Criteo's format, through the ETL, as a training of all its dates."""
    config = folder / "criteo.yaml"
    if not config.exists():
        (folder / "raw").mkdir(parents=True)
        made = ("--rows", str(rows), "--days", "1", "--out", str(folder / "raw"))
        measured([sys.executable, "benchmarks/make_criteo.py", *made])
        root = Path.cwd()
        text = (root / "conf/criteo.yaml").read_text()
        text = text.replace("../data/raw/criteo/", "raw/").replace("../data/lake", "lake")
        config.write_text(text.replace("spark/local.conf", f"{root}/conf/spark/local.conf"))
        etl = ("--config", str(config), "--date", "2026-01-01")
        measured([sys.executable, "-m", "jobs.cli", "etl", *etl])
    return job_of(load_settings(config, OVERRIDES), folder)


def job_of(settings: Settings, folder: Path) -> TrainJob:
    dataset = settings.dataset()
    lake = Lake(settings.lake_url, dataset.name)
    examples = Examples.open(lake.table("examples").url)
    dates = sorted(examples.info["states"])
    state = load_state(lake, examples.info["states"][dates[-1]])
    return TrainJob(
        settings=settings,
        dataset=dataset,
        spec=ModelSpec.of(dataset, state, settings.train),
        examples=examples,
        first_ds=dates[0],
        last_ds=dates[-1],
        has_validation=False,
        folder=str(folder / "run"),
        terminal=False,
        id_maps={},
    )


class InMemory:
    """An epoch's batches, kept."""

    def __init__(self, stream: Batches) -> None:
        self.rows = stream.rows
        self._batches = list(stream.epoch(0))

    def epoch(self, epoch: int, start_row: int = 0) -> Iterator[Batch]:
        yield from self._batches


class Timed:
    """Commits, and the seconds that training spent in them."""

    def __init__(self, commits: Commits) -> None:
        self._commits = commits
        self.seconds = 0.0

    def after_step(self, position: Position, ledger: RowLedger) -> None:
        started = time.perf_counter()
        self._commits.after_step(position, ledger)
        self.seconds += time.perf_counter() - started

    def after_epoch(self, position: Position) -> None:
        started = time.perf_counter()
        self._commits.after_epoch(position)
        self.seconds += time.perf_counter() - started


Sources = dict[str, list[float]]


def by_source(job: TrainJob, repeats: int, exchange: Exchange, memory: Memory) -> Sources:
    """Seconds of an epoch by where its rows come from; with checkpoints, also those in commits."""
    settings = job.settings.train
    torch.set_num_threads(settings.threads_per_rank)
    torch.manual_seed(settings.seed)
    step = Step(build_model(settings.model, job.spec), settings, exchange)
    stream = job.stream("train", exchange)
    kept = InMemory(stream)
    written = RowCount.of_shards(job.examples.shards("train", job.first_ds, job.last_ds))
    found: Sources = {"memory": [], "stream": [], "checkpoints": [], "commits": []}

    def epoch(source: Batches, commits: Commits | None = None) -> float:
        history = fit(
            step, source, None, settings, written, lambda best: None, Silent(), None, commits
        )
        return history.epochs[-1].seconds

    epoch(kept)
    for _ in range(repeats):
        found["memory"].append(epoch(kept))
        found["stream"].append(epoch(stream))
        # In the middle and at the end of the epoch.
        often = settings.model_copy(update={"checkpoint_rows": stream.rows // 2})
        writer = None
        if exchange.rank == 0:
            writer = Writer(job.folder, job.identity, often, lambda line: None, [])
        kept_by = Memory()
        kept_by.committed(take(step, Position(), RowLedger()))
        commits = Timed(Committer(step, often, kept_by, writer, lambda line: None))
        found["checkpoints"].append(epoch(stream, commits))
        found["commits"].append(commits.seconds)
        if writer is not None:
            writer.close()
    return found


# 2. The exchange


@dataclass
class Cost:
    """Of a step: median milliseconds on this rank, and bytes that it sent."""

    ms: float
    bytes: float


def zipf_batches(
    count: int, rows: int, exponent: float, rank: int
) -> tuple[ModelSpec, list[Batch]]:
    rng = np.random.default_rng([7, rank])
    weights = 1 / np.arange(1, TABLE_ROWS) ** exponent
    cumulated = (weights / weights.sum()).cumsum()
    # Which id is frequent differs by table: frequent ones are not neighbours.
    places = [np.random.default_rng(c).permutation(TABLE_ROWS - 1) + 1 for c in range(TABLES)]
    spec = ModelSpec(
        dataset="zipf",
        declaration="",
        state="",
        task="binary",
        means=(0.0,) * NUMBERS,
        stds=(1.0,) * NUMBERS,
        table_rows=(TABLE_ROWS,) * TABLES,
        embedding_dims=(DIM,) * TABLES,
        tensor_shapes={},
        hidden=(128, 64),
        dropout=0.0,
    )
    batches = []
    for _ in range(count):
        drawn = np.searchsorted(cumulated, rng.random((rows, TABLES))).clip(max=TABLE_ROWS - 2)
        sparse = np.stack([places[c][drawn[:, c]] for c in range(TABLES)], axis=1)
        batches.append(
            Batch(
                dense=torch.from_numpy(rng.standard_normal((rows, NUMBERS), np.float32)),
                sparse=torch.from_numpy(sparse),
                label=torch.from_numpy((rng.random(rows) < 0.25).astype(np.float32)),
                weight=torch.ones(rows),
                row_id=torch.arange(rows),
                is_row=torch.ones(rows, dtype=torch.bool),
                position=torch.arange(rows),
                tensors={},
            )
        )
    return spec, batches


def exchanges(
    settings: Any, rows: int, exponent: float, repeats: int, exchange: Exchange, memory: Memory
) -> dict[str, Cost]:
    """What a step costs by how gradients travel; all ways take turns, on all ranks at once."""
    torch.set_num_threads(settings.threads_per_rank)
    spec, batches = zipf_batches(20, rows, exponent, exchange.rank)
    short = settings.model_copy(update={"wire_dtype": "float16"})
    ways: dict[str, Callable[[Batch], int]] = {
        "no exchange": _ours(spec, settings, Alone()),
        "sparse": _ours(spec, settings, exchange),
        "sparse, float16 values": _ours(spec, short, exchange),
        "Horovod's sparse path": _horovods(spec, settings, dense=False),
        "dense allreduce": _horovods(spec, settings, dense=True),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    sent = dict.fromkeys(ways, 0)
    for turn in range(repeats + 1):
        for name, way in ways.items():
            part = batches[:4] if name == "dense allreduce" else batches
            for batch in part:
                exchange.merge([torch.zeros(1)])
                started = time.perf_counter()
                sent[name] = way(batch)
                if turn:
                    times[name].append(1000 * (time.perf_counter() - started))
    return {name: Cost(statistics.median(times[name]), sent[name]) for name in ways}


def _ours(spec: ModelSpec, settings: Any, exchange: Exchange) -> Callable[[Batch], int]:
    torch.manual_seed(1)
    step = Step(build_model("dlrm", spec), settings, exchange)

    def run(batch: Batch) -> int:
        before = exchange.bytes_sent
        step.run(batch)
        return exchange.bytes_sent - before

    return run


def _horovods(spec: ModelSpec, settings: Any, dense: bool) -> Callable[[Batch], int]:
    """The same model with Horovod's own optimizer, as its users write it."""
    import horovod.torch as hvd

    torch.manual_seed(1)
    model: Model = build_model("dlrm", spec)
    for _, table in embedding_tables(model):
        table.sparse = not dense
    plain = torch.optim.Adagrad(model.parameters(), lr=settings.learning_rate)
    optimizer = hvd.DistributedOptimizer(plain, named_parameters=model.named_parameters())

    def run(batch: Batch) -> int:
        optimizer.zero_grad()
        row_losses(model(batch), batch, "binary").mean().backward()  # type: ignore[no-untyped-call]
        sent = sum(_gradient_bytes(p.grad) for p in model.parameters() if p.grad is not None)
        optimizer.step()
        return sent

    return run


def _gradient_bytes(gradient: torch.Tensor) -> int:
    if gradient.is_sparse:
        return gradient._indices().nbytes + gradient._values().nbytes
    return gradient.nbytes


# The tables


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
    slowest = {name: max(rank[name].ms for rank in found) for name in found[0]}
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
    parser.add_argument("--rows", type=int, default=500_000, help="of the Criteo-format data")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--step-rows", type=int, default=2_048, help="a rank, in the exchange")
    parser.add_argument("--exponent", type=float, default=1.05, help="of Zipf's law")
    parser.add_argument("--only", choices=("stream", "exchange"))
    parser.add_argument("--data", type=Path, default=Path("data/bench-train"))
    asked = parser.parse_args()

    from jobs.spark import session

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
