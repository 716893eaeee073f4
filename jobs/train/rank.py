"""The work of a rank: build the model, open its streams, train, keep the best epoch.

It runs in a Horovod process, or in the driver where there is one rank only.
"""

from __future__ import annotations

import math

import torch

from jobs.models.build import build_model
from jobs.models.folder import CARD
from jobs.stores.files import read_json
from jobs.train.exchange.exchange import Alone, Exchange
from jobs.train.keep.commits import Committer, RankMemory
from jobs.train.keep.pause import Paused, Pausing
from jobs.train.keep.together import together
from jobs.train.keep.writer import Writer
from jobs.train.launch.rank_job import RankResult, TrainJob
from jobs.train.order.slices import Slices
from jobs.train.read.id_maps import MappedStream
from jobs.train.read.kept import of_process
from jobs.train.read.memory import RowMemory
from jobs.train.start import start_of
from jobs.train.step.device import device_of_rank, exact_convolutions, step_threads
from jobs.train.step.history import History, Position
from jobs.train.step.loop import Commits, Reporter, fit, rung_at
from jobs.train.step.rowledger import RowCount
from jobs.train.step.step import Step
from jobs.train.tables.table import (
    ShardedTable,
    may_shard,
    refuse_ignored_places,
    shard,
)
from jobs.train.watch.progress import Console, Notes, Silent
from jobs.train.watch.watch import Watch


def train_rank(job: TrainJob, exchange: Exchange, memory: RankMemory) -> RankResult:
    """Trains as one of the exchange's ranks, from its last snapshot or checkpoint where it has one.

    Raises:
        Diverged, RowsMissed, DataRefused, ConfigError: see `fit`, `Stream` and `build_model`.
        StoreHangs: a checkpoint or a model cannot be written or read.
    """
    settings = job.settings.train
    with step_threads(settings.threads_per_rank), exact_convolutions():
        reporter = _reporter(job, exchange, memory)
        step = step_of(job, exchange)
        train, validation = _streams(job, exchange, memory, reporter)
        position = start_of(job, step, memory, reporter)
        writer = memory.writer if exchange.rank == 0 or step.sharded.tables else None
        committer = Committer(step, settings, memory, writer, reporter.say)
        watch = _watched(job, committer, train.rows) if exchange.rank == 0 else committer
        commits: Commits = watch
        if job.until_rows is not None:
            commits = Pausing(watch, committer, rows=job.until_rows, epoch_rows=train.rows)
        history, paused = _fitted(job, step, (train, validation), reporter, position, commits)
        if isinstance(watch, Watch):
            watch.close()
        rung = rung_at(paused, train.rows, step, validation) if paused is not None else None
        digest = _stored(job, exchange, writer, history, reporter)
    recoveries = tuple(memory.recoveries)
    return RankResult(exchange.rank, history, digest, train.fingerprint, recoveries, rung)


def step_of(job: TrainJob, exchange: Exchange) -> Step:
    """The step with fresh weights; sharded tables have none yet."""
    settings = job.settings.train
    torch.manual_seed(settings.seed)
    sharded = may_shard(settings, job.spec)
    model = build_model(settings.model, job.spec, job.settings.base, with_tables=not sharded)
    refuse_ignored_places(model, job.spec)
    device, tables = device_of_rank(), list[ShardedTable]()
    if sharded:
        tables = shard(model, settings, exchange.rank, exchange.size, device)
    model.to(device)
    slices = Slices.asked(
        settings.gradient_slices, job.settings.stream.streams, exchange.rank, exchange.size
    )
    step = Step(model, settings, exchange, tables, slices)
    # Each rank draws dropout masks of its own, as its rows are its own.
    torch.manual_seed(settings.seed + 1 + exchange.rank)
    return step


def _streams(
    job: TrainJob, exchange: Exchange, memory: RankMemory, reporter: Reporter
) -> tuple[MappedStream, MappedStream | None]:
    """The streams of training and of validation, if any, in one budget: they take turns."""
    # Fewer ranks have more streams each. Those that are left do with it; a first start is refused.
    # Trials read the same rows, one after the other.
    kept = of_process((job.settings.stream.memory_mb << 20) // 4) if job.in_task else None
    place = exchange.rank, exchange.size, RowMemory(kept), memory.last is None
    train = job.stream("train", *place)
    if train.note:
        reporter.say(train.note)
    return train, job.stream("val", *place) if job.has_validation else None


def _fitted(
    job: TrainJob,
    step: Step,
    streams: tuple[MappedStream, MappedStream | None],
    reporter: Reporter,
    start: Position,
    commits: Commits,
) -> tuple[History, Position | None]:
    """The epochs, and where training paused; None where it came to its end."""
    if isinstance(commits, Pausing) and commits.is_there(start):
        return start.history, start
    written = RowCount.of_shards(job.train_shards)
    try:
        history = fit(step, *streams, job.settings.train, written, reporter, start, commits)
    except Paused as paused:
        step.sharded.forget()
        return paused.position.history, paused.position
    return history, None


def _stored(
    job: TrainJob, exchange: Exchange, writer: Writer | None, history: History, reporter: Reporter
) -> str | None:
    """Waits until all that ranks keep is written, and returns the digest of the best weights.

    All ranks wait: when a rank returns, Horovod ends the others.
    """
    best = history.best

    def finished() -> str | None:
        if writer is not None:
            writer.close()
        if exchange.rank > 0:
            return None
        reporter.close()
        if best is None:
            return None
        return str(read_json(f"{job.best_folder(best.epoch)}/{CARD}")["weights_digest"])

    return together(
        exchange,
        finished,
        stall_s=job.settings.train.stall_s,
        # The writer has its own, which follows what it writes.
        limit_s=math.inf,
        what="the last checkpoint is being written",
    )


def _watched(job: TrainJob, committer: Committer, rows: int) -> Watch:
    gauges = job.settings.train.prometheus_file
    return Watch(
        committer,
        run=job.folder.rsplit("/", 1)[-1],
        epoch_rows=rows,
        step_rows=job.settings.train.step_rows,
        curves=job.curves,
        gauges=job.settings.path(gauges) if gauges else None,
    )


def _reporter(job: TrainJob, exchange: Exchange, memory: RankMemory) -> Reporter:
    if exchange.rank > 0 or job.in_task:
        return Silent()
    if isinstance(exchange, Alone):
        return Console(job.terminal)
    # It goes on when training starts again with other ranks.
    memory.reporter = memory.reporter or Notes(job.folder)
    return memory.reporter
