"""A small training, without the job around it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from jobs.batch.batch import Batch
from jobs.lake.examples import Examples
from jobs.models.spec import ModelSpec
from jobs.settings.settings import Settings
from jobs.train.keep.commits import RankMemory
from jobs.train.keep.snapshot import Snapshot
from jobs.train.launch.rank_job import TrainJob
from tests.builders.examples import CLICKS

TRAIN = {"batch_rows": 256, "epochs": 3, "learning_rate": 0.01, "stall_s": 60}
# Two dates; 2,007 rows to train on (not a multiple of the batch), 520 to validate on.
PLACES = {
    ("2026-01-01", "train"): [[997, 1, 7], [500]],
    ("2026-01-02", "train"): [[251] * 2],
    ("2026-01-01", "val"): [[400, 120]],
}
TRAIN_ROWS = 2007


def job_of(examples: Examples, folder: Path | str, **train: Any) -> TrainJob:
    """Trains a small model on PLACES. `train` are settings."""
    settings = Settings.model_validate(
        {
            "schema": "tests.builders.examples:CLICKS",
            "lake": "unused",
            "etl": {"sources": {"clicks": "unused"}},
            "stream": {"streams": 16, "window_rows": 200, "timeout_s": 5},
            "train": {**TRAIN, **train},
        }
    )
    table_rows = tuple(10 * number + 1 for number, _ in enumerate(CLICKS.stored_columns()))
    spec = ModelSpec(
        dataset="clicks",
        declaration=CLICKS.digest,
        state="none",
        task="binary",
        means=(100.0, 100.0),
        stds=(50.0, 50.0),
        table_rows=table_rows[-4:-1],
        embedding_dims=(4, 4, 4),
        tensor_shapes={},
        hidden=(16,),
        dropout=settings.train.dropout,
    )
    return TrainJob(
        settings=settings,
        dataset=CLICKS,
        spec=spec,
        examples=examples,
        first_ds="2026-01-01",
        last_ds="2026-01-02",
        has_validation=True,
        folder=str(folder),
        terminal=False,
        id_maps={},
    )


class Killed(BaseException):
    """The end of a process, as near as a thread comes to it."""


class Mortal(RankMemory):
    """Ends its rank at a commit, once there is a checkpoint."""

    def __init__(self, at_commit: int) -> None:
        super().__init__()
        self._left = at_commit

    def committed(self, snapshot: Snapshot) -> None:
        super().committed(snapshot)
        self._left -= 1
        if self._left <= 0:
            # One that is just being started cannot be joined.
            while any(own.name == "millstream-checkpoint" for own in threading.enumerate()):
                time.sleep(0.01)
            raise Killed


Step = dict[int, int]


@dataclass
class Trace:
    """Of each rank, its batches of the run: epoch, and ids by position."""

    batches: dict[int, list[tuple[int, Step]]] = field(default_factory=dict)

    def steps(self) -> list[tuple[int, Step]]:
        """The global batches that all ranks took."""
        taken = zip(*self.batches.values(), strict=False)
        return [
            (pieces[0][0], {k: v for _, piece in pieces for k, v in piece.items()})
            for pieces in taken
        ]


class Traced:
    """A stream that leaves its batches in a trace."""

    def __init__(self, stream: Any, seen: list[tuple[int, Step]]) -> None:
        self._stream, self._seen = stream, seen
        self.rows, self.fingerprint, self.note = stream.rows, stream.fingerprint, stream.note

    def epoch(self, epoch: int, start_row: int = 0) -> Iterator[Batch]:
        for batch in self._stream.epoch(epoch, start_row):
            rows = batch.position[batch.is_row].tolist(), batch.row_id[batch.is_row].tolist()
            self._seen.append((epoch, dict(zip(*rows, strict=True))))
            yield batch


@dataclass(frozen=True)
class TracedJob(TrainJob):
    trace: Trace = field(default_factory=Trace)

    def stream(self, split: Literal["train", "val"], rank: int, size: int, *more: Any) -> Any:
        stream = super().stream(split, rank, size, *more)
        if split == "val":
            return stream
        return Traced(stream, self.trace.batches.setdefault(rank, []))


def traced(job: TrainJob) -> TracedJob:
    return TracedJob(**{name: getattr(job, name) for name in TrainJob.__dataclass_fields__})


def index_of(expected: list[tuple[int, Step]], epoch: int, row: int) -> int:
    """Number of the step that begins at a position."""
    starts = [(e, min(step)) for e, step in expected]
    return starts.index((epoch, row))
