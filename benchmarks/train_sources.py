"""An epoch's seconds by where its rows come from, for `bench_train`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.common import measured
from jobs.batch.batch import Batch
from jobs.lake.examples import Examples
from jobs.lake.lake import Lake
from jobs.lake.state import load_state
from jobs.models.build import build_model
from jobs.models.spec import ModelSpec
from jobs.settings.load import load_settings
from jobs.settings.settings import Settings
from jobs.train.exchange.exchange import Exchange
from jobs.train.keep.commits import Committer, RankMemory, Writer
from jobs.train.keep.snapshot import take
from jobs.train.launch.rank_job import TrainJob
from jobs.train.step.device import device_of_rank, step_threads
from jobs.train.step.history import Position
from jobs.train.step.loop import Batches, Commits, fit
from jobs.train.step.rowledger import RowCount, RowLedger
from jobs.train.step.step import Step
from jobs.train.watch.progress import Silent

OVERRIDES = (
    "train.model=dlrm",
    "train.embedding_dim=16",
    "train.optimizer=adagrad",
    "train.learning_rate=0.01",
    "train.batch_rows=4096",
    "train.epochs=1",
)


def made_job(folder: Path, rows: int) -> TrainJob:
    """Data in Criteo's format, through the ETL, as a training of all its dates."""
    config = folder / "criteo.yaml"
    if not config.exists():
        (folder / "raw").mkdir(parents=True)
        made = ("--rows", str(rows), "--days", "1", "--out", str(folder / "raw"))
        measured([sys.executable, "-m", "benchmarks.make_criteo", *made])
        root = Path.cwd()
        text = (root / "conf/criteo.yaml").read_text()
        text = text.replace("../data/raw/criteo/", "raw/").replace("../data/lake", "lake")
        config.write_text(text.replace("spark/bulk.conf", f"{root}/conf/spark/bulk.conf"))
        etl = ("--config", str(config), "--date", "2026-01-01")
        measured([sys.executable, "-m", "jobs.main", "etl", *etl])
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


def by_source(job: TrainJob, repeats: int, exchange: Exchange, memory: RankMemory) -> Sources:
    """Seconds of an epoch by where its rows come from; with checkpoints, also those in commits."""
    with step_threads(job.settings.train.threads_per_rank):
        return _by_source(job, repeats, exchange)


def _by_source(job: TrainJob, repeats: int, exchange: Exchange) -> Sources:
    settings = job.settings.train
    torch.manual_seed(settings.seed)
    model = build_model(settings.model, job.spec).to(device_of_rank())
    step = Step(model, settings, exchange)
    stream = job.stream("train", exchange.rank, exchange.size)
    kept = InMemory(stream)
    written = RowCount.of_shards(job.examples.shards("train", job.first_ds, job.last_ds))
    found: Sources = {"memory": [], "stream": [], "checkpoints": [], "commits": []}

    def epoch(source: Batches, commits: Commits | None = None) -> float:
        history = fit(step, source, None, settings, written, Silent(), None, commits)
        return history.epochs[-1].seconds

    # Fresh memory costs as much as reading does: each way has its own before it counts.
    epoch(kept)
    epoch(stream)
    for _ in range(repeats):
        found["memory"].append(epoch(kept))
        found["stream"].append(epoch(stream))
        # In the middle and at the end of the epoch.
        often = settings.model_copy(update={"checkpoint_rows": stream.rows // 2})
        writer = None
        if exchange.rank == 0:
            writer = Writer(
                job.folder, job.identity, often, lambda line: None, [], lambda snapshot: None
            )
        kept_by = RankMemory()
        kept_by.committed(take(step, Position(), RowLedger()))
        commits = Timed(Committer(step, often, kept_by, writer, lambda line: None))
        found["checkpoints"].append(epoch(stream, commits))
        found["commits"].append(commits.seconds)
        if writer is not None:
            writer.close()
    return found
