"""What each rank does: build the model, open its part of the streams, train, keep the best epoch.

The same code runs in a Horovod process and, for a single rank, in the driver.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import fsspec
import numpy as np
import numpy.typing as npt
import torch

from jobs.batch.batch import Batch
from jobs.batch.layout import Layout
from jobs.lake.choice import Choice
from jobs.lake.examples import Examples
from jobs.lake.store import read_json
from jobs.models.artifact import CARD, save_model
from jobs.models.build import build_model
from jobs.models.spec import ModelSpec
from jobs.settings.settings import Settings
from jobs.train.exchange.exchange import Alone, Exchange
from jobs.train.keep.checkpoint import Checkpoint, listed, load
from jobs.train.keep.commits import Committer, RankMemory, Recovery, Writer
from jobs.train.keep.snapshot import Snapshot, restore, take
from jobs.train.keep.warm_start import WarmStart, warm, warm_moments
from jobs.train.order.fingerprint import fingerprint_of
from jobs.train.read.stream import Stream
from jobs.train.step.history import EpochResult, History, Position
from jobs.train.step.loop import Reporter, fit
from jobs.train.step.moments import moments_of
from jobs.train.step.rowledger import RowCount, RowLedger
from jobs.train.step.step import Step
from jobs.train.watch.progress import Console, Notes, Silent
from jobs.train.watch.watch import Watch
from schemas.dataset import Dataset

_SWITCH_S = 0.0005
IdMaps = Mapping[str, npt.NDArray[np.int32]]


@dataclass(frozen=True)
class TrainJob:
    """All that a rank needs, small to send.

    Attributes:
        examples: the version to train on.
        first_ds, last_ds: dates, inclusive.
        has_validation: whether the split `val` has rows there.
        folder: of the run, for checkpoints and the best epochs' models.
        terminal: someone watches the driver's terminal.
        id_maps: field -> the state's id by that of the examples, for fields with ids that the
            state lacks.
        resume: checkpoint to go on from; `folder` is its run's.
        warm_start: whose weights it starts with; fresh ones when None.
        curves: folder for TensorBoard; none when None.
    """

    settings: Settings
    dataset: Dataset
    spec: ModelSpec
    examples: Examples
    first_ds: str
    last_ds: str
    has_validation: bool
    folder: str
    terminal: bool
    id_maps: IdMaps
    resume: Checkpoint | None = None
    warm_start: WarmStart | None = None
    curves: str | None = None

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Of the order that is trained on; see `Stream.fingerprint`."""
        stream = self.settings.stream
        return fingerprint_of(
            self.examples.shards("train", self.first_ds, self.last_ds),
            self.dataset,
            columns=Layout(self.dataset).columns,
            choice=Choice.of("train", self.first_ds, self.last_ds),
            seed=stream.seed,
            streams=stream.streams,
            window_rows=stream.window_rows,
        )

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint is compared with."""
        return {
            "examples_version": self.examples.version,
            "state_digest": self.spec.state,
            "fingerprint": self.fingerprint,
            "spec": json.loads(json.dumps(self.spec.to_json())),
            "train": self.settings.train.model_dump(mode="json"),
        }

    def best_folder(self, epoch: int) -> str:
        """Of the model of an epoch that was the best so far."""
        return f"{self.folder}/best-{epoch:06d}"

    def stream(self, split: Literal["train", "val"], exchange: Exchange) -> MappedStream:
        """A rank's part of a split's stream."""
        stream = Stream.from_settings(
            self.examples,
            self.dataset,
            self.settings.stream,
            split=split,
            batch_rows=self.settings.train.batch_rows,
            rank=exchange.rank,
            size=exchange.size,
            first_ds=self.first_ds,
            last_ds=self.last_ds,
        )
        maps = {name: torch.from_numpy(ids).long() for name, ids in self.id_maps.items()}
        return MappedStream(stream, maps, [f.name for f in self.dataset.categorical])


def device_of_rank() -> torch.device:
    """The GPU that the launcher chose for this process, where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class MappedStream:
    """A stream whose ids become those of the model's state.

    Args:
        maps: field -> id by id.
        columns: fields of `sparse`; the others are lists.
    """

    def __init__(
        self, stream: Stream, maps: Mapping[str, torch.Tensor], columns: Sequence[str]
    ) -> None:
        self._stream = stream
        self._maps, self._columns = maps, list(columns)

    @property
    def rows(self) -> int:
        return self._stream.rows

    @property
    def fingerprint(self) -> dict[str, Any]:
        return self._stream.fingerprint

    def epoch(self, epoch: int, start_row: int = 0) -> Iterator[Batch]:
        for batch in self._stream.epoch(epoch, start_row):
            yield self._mapped(batch) if self._maps else batch

    def _mapped(self, batch: Batch) -> Batch:
        sparse = batch.sparse.clone()
        tensors = dict(batch.tensors)
        for name, ids in self._maps.items():
            if name in self._columns:
                column = self._columns.index(name)
                sparse[:, column] = ids[sparse[:, column]]
            else:
                tensors[name] = ids[tensors[name]]
        return replace(batch, sparse=sparse, tensors=tensors)


@dataclass(frozen=True)
class RankResult:
    """What a rank did.

    Attributes:
        digest: of the best epoch's weights, on rank 0; else None.
        fingerprint: of the stream that was trained on.
        recoveries: that it went through.
    """

    rank: int
    history: History
    digest: str | None
    fingerprint: dict[str, Any]
    recoveries: tuple[Recovery, ...] = ()


def train_rank(job: TrainJob, exchange: Exchange, memory: RankMemory) -> RankResult:
    """Trains as one of the exchange's ranks, from the last snapshot in memory or on disk.

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
        # Ranks draw other dropout masks for their other rows.
        torch.manual_seed(settings.seed + 1 + exchange.rank)
        train = job.stream("train", exchange)
        reporter = _reporter(job, exchange)
        if job.warm_start is not None and job.resume is None and memory.last is None:
            reporter.say(warm_moments(step, job.warm_start, origins, settings.optimizer))
        start = _start(job, step, memory, exchange.rank == 0, reporter)
        writer = memory.writer if exchange.rank == 0 else None
        committer = Committer(step, settings, memory, writer, reporter.say)
        watch = _watched(job, committer, train.rows) if exchange.rank == 0 else committer

        def keep(result: EpochResult) -> None:
            if exchange.rank == 0:
                _keep_best(job, step, result.epoch)

        history = fit(
            step,
            train,
            job.stream("val", exchange) if job.has_validation else None,
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
        # No rank returns before the last checkpoint is written: the others would be ended.
        exchange.start_sums([torch.zeros(1)])()
    assert history.best is not None
    digest = None
    if exchange.rank == 0:
        digest = read_json(f"{job.best_folder(history.best.epoch)}/{CARD}")["weights_digest"]
    return RankResult(exchange.rank, history, digest, train.fingerprint, tuple(memory.recoveries))


def _start(
    job: TrainJob, step: Step, memory: RankMemory, writes: bool, reporter: Reporter
) -> Snapshot:
    """What training goes on from, set in model and optimizers."""
    if writes and memory.writer is None:
        # Of a run that is resumed, the others are damaged. They go when the next one is complete.
        resumed = job.resume is not None and memory.last is None
        written = [job.resume.url] if job.resume and resumed else listed(job.folder)[::-1]
        memory.writer = Writer(job.folder, job.identity, job.settings.train, reporter.say, written)
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


def _keep_best(job: TrainJob, step: Step, epoch: int) -> None:
    """Saves the best epoch's model; of those before it, what a kept checkpoint may name stays."""
    train = job.settings.train
    card = {"base": job.settings.base, "epoch": epoch, "optimizer": train.optimizer}
    # They take as much again as the tables: for those alone who start the next model from this.
    moments = moments_of(step) if train.warm_start is not None else None
    save_model(job.best_folder(epoch), step.model, train.model, job.spec, card, moments)
    fs, root = fsspec.core.url_to_fs(job.folder)
    best = sorted(fs.glob(f"{root}/best-??????"))
    for path in best[: -1 - job.settings.train.checkpoint_keep]:
        fs.rm(path, recursive=True)


def _reporter(job: TrainJob, exchange: Exchange) -> Reporter:
    if exchange.rank > 0:
        return Silent()
    return Console(job.terminal) if isinstance(exchange, Alone) else Notes(job.folder)


@contextmanager
def step_threads(threads: int) -> Iterator[None]:
    """Torch's threads for a step, which then waits less for those that make its batches."""
    before, switched = torch.get_num_threads(), sys.getswitchinterval()
    torch.set_num_threads(threads)
    # A thread that decodes may hold Python's lock for 5 ms otherwise, a good part of a step.
    sys.setswitchinterval(_SWITCH_S)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        sys.setswitchinterval(switched)


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """Convolutions on a GPU in whole float32, and with the same bits from run to run.

    cuDNN's own choice is TF32, which has 10 bits of a number, and sums in any order: a resumed
    training would not be the one that was not interrupted.
    """
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        yield
