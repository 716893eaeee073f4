"""What the driver sends to the ranks, and what they send back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

import torch

from jobs.batch.layout import Layout
from jobs.lake.choice import Choice
from jobs.lake.examples import Examples
from jobs.models.spec import ModelSpec
from jobs.settings.settings import Settings
from jobs.train.exchange.exchange import Exchange
from jobs.train.keep.best import best_folder
from jobs.train.keep.checkpoint import Checkpoint
from jobs.train.keep.commits import Recovery
from jobs.train.keep.warm_start import WarmStart
from jobs.train.order.fingerprint import fingerprint_of
from jobs.train.read.id_maps import IdMaps, MappedStream
from jobs.train.read.stream import Stream
from jobs.train.step.history import History
from schemas.dataset import Dataset


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
        return best_folder(self.folder, epoch)

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
