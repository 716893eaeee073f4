"""What each rank does: build the model, open its part of the streams, train, keep the best epoch.

The same code runs in a Horovod process and, for a single rank, in the driver.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from jobs.lake import Examples
from jobs.settings import Settings
from jobs.train.artifact import save_model
from jobs.train.batch import Batch
from jobs.train.history import EpochResult, History
from jobs.train.loop import fit
from jobs.train.models import ModelSpec, build_model
from jobs.train.progress import Console, Notes, Reporter, Silent
from jobs.train.rowledger import RowCount
from jobs.train.step import Exchange, Step
from jobs.train.stream import Stream
from schemas.dataset import Dataset

IdMaps = Mapping[str, npt.NDArray[np.int32]]


@dataclass(frozen=True)
class TrainJob:
    """All that a rank needs, small to send.

    Attributes:
        examples: the version to train on.
        first_ds, last_ds: dates, inclusive.
        has_validation: whether the split `val` has rows there.
        folder: of the run; the best epoch's model goes to its folder `best`.
        terminal: someone watches the driver's terminal.
        id_maps: field -> the state's id by that of the examples, for fields with ids that the
            state lacks.
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

    @property
    def best_folder(self) -> str:
        return f"{self.folder}/best"

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
        names = [f.name for f in self.dataset.categorical]
        maps = {
            names.index(name): torch.from_numpy(ids).long() for name, ids in self.id_maps.items()
        }
        return MappedStream(stream, maps)


class MappedStream:
    """A stream whose ids become those of the model's state.

    Args:
        maps: column of `sparse` -> id by id.
    """

    def __init__(self, stream: Stream, maps: Mapping[int, torch.Tensor]) -> None:
        self._stream = stream
        self._maps = maps

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
        for column, ids in self._maps.items():
            sparse[:, column] = ids[sparse[:, column]]
        return replace(batch, sparse=sparse)


@dataclass(frozen=True)
class RankResult:
    """What a rank did.

    Attributes:
        digest: of the best epoch's weights, on rank 0; else None.
        fingerprint: of the stream that was trained on.
    """

    rank: int
    history: History
    digest: str | None
    fingerprint: dict[str, Any]


def train_rank(job: TrainJob, exchange: Exchange) -> RankResult:
    """Trains as one of the exchange's ranks.

    Raises:
        Diverged, RowsMissed, DataRefused, ConfigError: see `fit`, `Stream` and `build_model`.
    """
    settings = job.settings.train
    digests: list[str] = []
    with _torch_threads(settings.threads_per_rank):
        torch.manual_seed(settings.seed)
        model = build_model(settings.model, job.spec, job.settings.base)
        step = Step(model, settings, exchange)
        # Ranks draw other dropout masks for their other rows.
        torch.manual_seed(settings.seed + 1 + exchange.rank)
        train = job.stream("train", exchange)

        def keep(result: EpochResult) -> None:
            if exchange.rank == 0:
                card = {"base": job.settings.base, "epoch": result.epoch}
                digests.append(save_model(job.best_folder, model, settings.model, job.spec, card))

        history = fit(
            step,
            train,
            job.stream("val", exchange) if job.has_validation else None,
            settings,
            RowCount.of_shards(job.examples.shards("train", job.first_ds, job.last_ds)),
            keep,
            _reporter(job, exchange),
        )
    return RankResult(exchange.rank, history, digests[-1] if digests else None, train.fingerprint)


def _reporter(job: TrainJob, exchange: Exchange) -> Reporter:
    if exchange.rank > 0:
        return Silent()
    return Notes(job.folder) if exchange.size > 1 else Console(job.terminal)


@contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
