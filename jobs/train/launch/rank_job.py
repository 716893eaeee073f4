"""The job that the driver sends to the ranks, and the result that each sends back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

import torch

from jobs.batch.layout import Layout
from jobs.lake.choice import Choice
from jobs.lake.examples import Examples
from jobs.lake.lock import Claim
from jobs.lake.manifest import Shard
from jobs.models.spec import ModelSpec
from jobs.settings.settings import Settings
from jobs.train.keep.best import best_folder
from jobs.train.keep.checkpoint import Checkpoint
from jobs.train.keep.commits import Recovery
from jobs.train.order.fingerprint import fingerprint_of
from jobs.train.read.id_maps import IdMaps, MappedStream
from jobs.train.read.memory import RowMemory
from jobs.train.read.stream import Stream
from jobs.train.step.history import History, Rung
from jobs.train.tables.table import may_shard
from jobs.train.warm.source import WarmStart
from schemas.dataset import Dataset


@dataclass(frozen=True)
class TrainJob:
    """All that a rank needs to train; its size does not depend on the number of rows.

    Attributes:
        spec: of the model.
        examples: the version of the table to train on.
        first_ds, last_ds: the first and the last date to train on.
        has_validation: whether the split `val` has rows on these dates.
        folder: URL of the run's folder, for checkpoints and the best epochs' models.
        terminal: whether the driver's output is a terminal.
        id_maps: field -> int32 [ids of the examples], the state's id of the same value. Only fields
            in which the state lacks ids are there.
        resume: the checkpoint to resume from, in `folder`; None to start from the beginning.
        warm_start: the model whose weights training starts with; fresh weights when None.
        curves: folder for TensorBoard's curves; none are written when None.
        claim: on the lock of training, without which nothing is removed; None where there is none.
        in_task: whether the only rank runs in a task of Spark's, where nobody sees its progress.
        until_rows: rows of all epochs after which training pauses; it goes to its end when None.
        with_validation: whether the rows of split `val` are trained on, too.
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
    claim: Claim | None = None
    in_task: bool = False
    until_rows: int | None = None
    with_validation: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the fields that are read and given to the model."""
        return self.spec.columns(self.dataset)

    @property
    def train_shards(self) -> list[Shard]:
        """The shards that are trained on."""
        return self.examples.shards(
            first_ds=self.first_ds, last_ds=self.last_ds, **self._rows_of("train")
        )

    def _rows_of(self, split: str) -> dict[str, Any]:
        if split == "train" and self.with_validation:
            return {"where": {"split": ("train", "val")}}
        return {"split": split}

    @property
    def _held_batches(self) -> int:
        """Batches that a rank holds beside the one that it read last: a step's, and where tables
        are sharded those of the step after it."""
        train = self.settings.train
        return (1 + may_shard(train, self.spec)) * train.accumulate_steps - 1

    @property
    def fingerprint(self) -> dict[str, Any]:
        """The fingerprint of the training rows' order, see `fingerprint_of`."""
        stream = self.settings.stream
        return fingerprint_of(
            self.train_shards,
            self.dataset,
            columns=Layout(self.dataset, self.columns).columns,
            choice=Choice.of(
                first_ds=self.first_ds, last_ds=self.last_ds, **self._rows_of("train")
            ),
            seed=stream.seed,
            streams=stream.streams,
            window_rows=stream.window_rows,
        )

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint must share with this training to be resumed, as a tree for JSON."""
        return {
            "examples_version": self.examples.version,
            "state_digest": self.spec.state,
            "warm_start": self.warm_start.version if self.warm_start else None,
            "fingerprint": self.fingerprint,
            "spec": json.loads(json.dumps(self.spec.to_json())),
            "train": self.settings.train.model_dump(mode="json"),
        }

    def check_lock(self) -> None:
        """Raises Locked when another run has taken over; called before files are removed."""
        if self.claim is not None:
            self.claim.check()

    def best_folder(self, epoch: int) -> str:
        """The folder of the model of an epoch that was the best so far."""
        return best_folder(self.folder, epoch)

    def stream(
        self,
        split: Literal["train", "val"],
        rank: int,
        size: int,
        memory: RowMemory | None = None,
        must_fit: bool = True,
    ) -> MappedStream:
        """A rank's batches of a split; `memory` and `must_fit` are the `Stream`'s."""
        stream = Stream.from_settings(
            self.examples,
            self.dataset,
            self.settings.stream,
            **{"split": None, **self._rows_of(split)},
            batch_rows=self.settings.train.batch_rows,
            rank=rank,
            size=size,
            gradient_slices=self.settings.train.gradient_slices,
            columns=self.columns,
            first_ds=self.first_ds,
            last_ds=self.last_ds,
            memory=memory,
            held_batches=self._held_batches if split == "train" else 0,
            must_fit=must_fit,
        )
        maps = {
            name: torch.from_numpy(ids).long()
            for name, ids in self.id_maps.items()
            if name in self.columns
        }
        sparse = [f.name for f in self.dataset.categorical if f.name in self.columns]
        return MappedStream(stream, maps, sparse)


@dataclass(frozen=True)
class RankResult:
    """The result of a rank.

    Attributes:
        rank: its number.
        history: the epochs, the same on all ranks but for times.
        digest: of the best epoch's weights, from rank 0; None from the others, and where training
            paused in its first epoch.
        fingerprint: of the order of the training rows.
        recoveries: from lost ranks, or with new ones.
        rung: where training paused; None where it came to its end.
    """

    rank: int
    history: History
    digest: str | None
    fingerprint: dict[str, Any]
    recoveries: tuple[Recovery, ...] = ()
    rung: Rung | None = None
