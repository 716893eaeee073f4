"""The work of a rank: build the model, open its streams, train, keep the best epoch.

It runs in a Horovod process, or in the driver where there is one rank only.
"""

from __future__ import annotations

import torch

from jobs.models.artifact import CARD
from jobs.models.build import build_model
from jobs.stores.files import read_json
from jobs.train.exchange.exchange import Alone, Exchange
from jobs.train.keep.best import save_best
from jobs.train.keep.checkpoint import listed, load
from jobs.train.keep.commits import Committer, RankMemory, Writer
from jobs.train.keep.snapshot import Snapshot, restore, take
from jobs.train.keep.warm_start import warm, warm_moments
from jobs.train.launch.rank_job import RankResult, TrainJob
from jobs.train.step.device import device_of_rank, exact_convolutions, step_threads
from jobs.train.step.history import EpochResult, Position
from jobs.train.step.loop import Reporter, fit
from jobs.train.step.rowledger import RowCount, RowLedger
from jobs.train.step.step import Step
from jobs.train.watch.progress import Console, Notes, Silent
from jobs.train.watch.watch import Watch


def train_rank(job: TrainJob, exchange: Exchange, memory: RankMemory) -> RankResult:
    """Trains as one of the exchange's ranks, from its last snapshot or checkpoint where it has one.

    Raises:
        Diverged, RowsMissed, DataRefused, ConfigError: see `fit`, `Stream` and `build_model`.
        StoreHangs: a checkpoint cannot be written.
    """
    settings = job.settings.train
    with step_threads(settings.threads_per_rank), exact_convolutions():
        torch.manual_seed(settings.seed)
        model = build_model(settings.model, job.spec, job.settings.base)
        origins = warm(model, job.spec, job.warm_start) if job.warm_start else {}
        model.to(device_of_rank())
        step = Step(model, settings, exchange)
        # Each rank draws dropout masks of its own, as its rows are its own.
        torch.manual_seed(settings.seed + 1 + exchange.rank)
        train = job.stream("train", exchange.rank, exchange.size)
        reporter = _reporter(job, exchange)
        if job.warm_start is not None and job.resume is None and memory.last is None:
            reporter.say(warm_moments(step, job.warm_start, origins, settings.optimizer))
        start = _start(job, step, memory, exchange.rank == 0, reporter)
        writer = memory.writer if exchange.rank == 0 else None
        committer = Committer(step, settings, memory, writer, reporter.say)
        watch = _watched(job, committer, train.rows) if exchange.rank == 0 else committer

        def keep(result: EpochResult) -> None:
            if exchange.rank == 0:
                # It removes older ones.
                job.check_lock()
                save_best(job.folder, step, job.spec, job.settings, result.epoch)

        history = fit(
            step,
            train,
            job.stream("val", exchange.rank, exchange.size) if job.has_validation else None,
            settings,
            RowCount.of_shards(job.examples.shards("train", job.first_ds, job.last_ds)),
            keep,
            reporter,
            start.position,
            watch,
        )
        if isinstance(watch, Watch):
            watch.close()
        if writer is not None:
            writer.close()
        # All ranks wait for rank 0 to write the last checkpoint: when a rank
        # returns, Horovod ends the others.
        exchange.start_sums([torch.zeros(1)]).result()
    assert history.best is not None
    digest = None
    if exchange.rank == 0:
        digest = read_json(f"{job.best_folder(history.best.epoch)}/{CARD}")["weights_digest"]
    return RankResult(exchange.rank, history, digest, train.fingerprint, tuple(memory.recoveries))


def _start(
    job: TrainJob, step: Step, memory: RankMemory, writes: bool, reporter: Reporter
) -> Snapshot:
    """Sets model and optimizers to the last snapshot or checkpoint, and returns the snapshot.

    Without either, it is a snapshot of the beginning.
    """
    if writes and memory.writer is None:
        # Newer checkpoints than the resumed one are damaged. They are not counted as written, and
        # are removed when the next one is complete.
        resumed = job.resume is not None and memory.last is None
        written = [job.resume.url] if job.resume and resumed else listed(job.folder)[::-1]
        memory.writer = Writer(
            job.folder, job.identity, job.settings.train, reporter.say, written, job.check_lock
        )
    known = memory.last or (load(job.resume) if job.resume else None)
    if known is not None:
        restore(step, known)
    start = known or take(step, Position(), RowLedger())
    memory.committed(start)
    return start


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


def _reporter(job: TrainJob, exchange: Exchange) -> Reporter:
    if exchange.rank > 0:
        return Silent()
    return Console(job.terminal) if isinstance(exchange, Alone) else Notes(job.folder)
