"""Commits: copies in memory every few steps, some of which a thread writes as checkpoints."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from jobs.errors import MillstreamError
from jobs.sections import TrainSettings
from jobs.train import checkpoint
from jobs.train.history import Position
from jobs.train.rowledger import RowLedger
from jobs.train.snapshot import Snapshot, take
from jobs.train.step import Step


class StoreHangs(MillstreamError):
    """A checkpoint is being written for longer than `train.checkpoint_timeout_s`."""


class Writer:
    """Writes checkpoints one at a time in a thread of its own; never makes training wait.

    Args:
        folder: of the run.
        identity: kept in each checkpoint.
        say: is told of a checkpoint that could not be written. Training goes on.
        written: complete checkpoints that are there already, the oldest first.
    """

    def __init__(
        self,
        folder: str,
        identity: Mapping[str, Any],
        settings: TrainSettings,
        say: Callable[[str], None],
        written: list[str],
    ) -> None:
        self._folder, self._identity, self._settings, self._say = folder, identity, settings, say
        self._written = list(written)
        self._thread: threading.Thread | None = None
        self._busy: Snapshot | None = None
        self._since = 0.0

    @property
    def busy(self) -> Snapshot | None:
        """What is being written.

        Raises:
            StoreHangs: for too long.
        """
        limit_s = self._settings.checkpoint_timeout_s
        if self._busy is not None and time.monotonic() - self._since > limit_s:
            raise StoreHangs(
                f"a checkpoint is being written to {self._folder} for more than {limit_s} s",
                "a store that takes it in train.checkpoint_timeout_s",
                "look at the store, or raise the limit; --resume auto goes on from the last one",
            )
        return self._busy

    def offer(self, snapshot: Snapshot) -> bool:
        """Whether it is taken; not while another one is being written."""
        if self.busy is not None:
            return False
        self._busy, self._since = snapshot, time.monotonic()
        self._thread = threading.Thread(
            target=self._write, args=(snapshot,), name="millstream-checkpoint", daemon=True
        )
        self._thread.start()
        return True

    def _write(self, snapshot: Snapshot) -> None:
        try:
            self._written.append(checkpoint.write(self._folder, snapshot, self._identity))
            checkpoint.prune(self._folder, self._settings.checkpoint_keep, self._written)
        except Exception as error:
            self._say(
                f"checkpoint at {snapshot.position.named()} not written: {error}; the one before "
                "stays, training goes on"
            )
        finally:
            self._busy = None

    def close(self) -> None:
        """Waits until the last one is written.

        Raises:
            StoreHangs: that takes too long.
        """
        while self._thread is not None and self._thread.is_alive() and self.busy is not None:
            self._thread.join(0.2)


class Committer:
    """Takes snapshots of a training as it goes.

    All ranks take them at the same steps: every `train.commit_steps`, after each
    `train.checkpoint_rows`, and after each epoch. The rank with the writer has one written when
    `train.checkpoint_rows` or `train.checkpoint_s` have passed since the last.

    Args:
        start: of this training.
        writer: on rank 0.
        committed: is told of each, when all ranks have it.
    """

    def __init__(
        self,
        step: Step,
        settings: TrainSettings,
        start: Snapshot,
        writer: Writer | None,
        committed: Callable[[Snapshot], None],
    ) -> None:
        self._step, self._settings, self._writer = step, settings, writer
        self._committed = committed
        self.last = start
        self._spare: Snapshot | None = None
        self._steps = 0
        self._written = start.position
        self._written_s = time.monotonic()

    def after_step(self, position: Position, ledger: RowLedger) -> None:
        self._steps += 1
        every_rows = self._settings.checkpoint_rows
        full = every_rows is not None and position.row // every_rows > self._last_row // every_rows
        if self._steps % self._settings.commit_steps == 0 or full:
            self._commit(position, ledger, full)

    def after_epoch(self, position: Position) -> None:
        self._commit(position, RowLedger(), True)

    @property
    def _last_row(self) -> int:
        return self.last.position.row

    def _commit(self, position: Position, ledger: RowLedger, write: bool) -> None:
        busy = self._writer.busy if self._writer else None
        spare = self._spare if self._spare is not busy else None
        self._spare = None
        snapshot = take(self._step, position, ledger, spare)
        self._spare, self.last = self.last, snapshot
        late = time.monotonic() - self._written_s > self._settings.checkpoint_s
        if self._writer and (write or late) and self._writer.offer(snapshot):
            self._written_s = time.monotonic()
        self._committed(snapshot)
