"""Commits: copies in memory every few steps, some of which a thread writes as checkpoints."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jobs.base.errors import MillstreamError
from jobs.settings.train import TrainSettings
from jobs.train.keep import checkpoint
from jobs.train.keep.snapshot import Snapshot, take
from jobs.train.step.history import Position
from jobs.train.step.rowledger import RowLedger
from jobs.train.step.step import Step


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


@dataclass(frozen=True)
class Recovery:
    """What a change of the ranks cost.

    Attributes:
        lost: names of the ranks that were lost; none where ranks only joined.
        ranks: that training goes on with.
        detected_s: from the start of the exchange that failed to its end.
        redone_rows: that had been trained after the last commit, and are trained again.
        seconds: from the start of the exchange that failed to the next step done.
    """

    lost: tuple[str, ...]
    ranks: int
    detected_s: float
    redone_rows: int
    seconds: float

    def line(self) -> str:
        ranks = "1 rank" if self.ranks == 1 else f"{self.ranks} ranks"
        if not self.lost:
            return f"{ranks} now, after {self.seconds:.1f} s; no row is trained again"
        return (
            f"lost {', '.join(self.lost)}, noticed after {self.detected_s:.1f} s; going on with "
            f"{ranks} after {self.seconds:.1f} s, {self.redone_rows:,} rows are "
            "trained again"
        )


class RankMemory:
    """What a rank's process keeps when the ranks change and training starts again in it.

    Attributes:
        last: the last commit.
        reached: position of the last step.
        writer: on the rank that is, or was, rank 0.
        recoveries: that this process went through.
        recovering: what is known of the one that is under way; the moment that it began.
    """

    def __init__(self) -> None:
        self.last: Snapshot | None = None
        self.reached: Position | None = None
        self.writer: Writer | None = None
        self.recoveries: list[Recovery] = []
        self.recovering: tuple[Recovery, float] | None = None

    def committed(self, snapshot: Snapshot) -> None:
        """All ranks have this snapshot."""
        self.last = snapshot

    def stepped(self, position: Position) -> Recovery | None:
        """A step is done; returns the recovery that it ends."""
        self.reached = position
        if self.recovering is None:
            return None
        known, began = self.recovering
        self.recovering = None
        self.recoveries.append(replace(known, seconds=time.monotonic() - began))
        return self.recoveries[-1]

    def interrupted(self, since: float | None) -> None:
        """The ranks change: an exchange that began at `since` failed, or new ones wait to join."""
        now = time.monotonic()
        began = now if since is None else since
        change = Recovery((), 0, now - began, self.uncommitted_rows, 0.0)
        if self.recovering is not None:
            before, began = self.recovering
            redone_rows = before.redone_rows + change.redone_rows
            change = replace(before, redone_rows=redone_rows)
        self.recovering = change, began
        self.reached = self.last.position if self.last else None

    def begin(self, last: Snapshot | None, lost: Sequence[str], ranks: int) -> None:
        """Training starts again, from `last`, with so many ranks."""
        self.last, self.reached = last, None
        if self.recovering is not None:
            change, began = self.recovering
            self.recovering = replace(change, lost=(*change.lost, *lost), ranks=ranks), began

    @property
    def uncommitted_rows(self) -> int:
        """Rows trained since the last commit."""
        if self.reached is None or self.last is None:
            return 0
        committed = self.last.position
        return self.reached.row - committed.row if self.reached.epoch == committed.epoch else 0


class Committer:
    """Takes snapshots of a training as it goes.

    All ranks take them at the same steps: every `train.commit_steps`, after each
    `train.checkpoint_rows`, and after each epoch. The rank with the writer has one written when
    `train.checkpoint_rows` or `train.checkpoint_s` have passed since the last.

    Args:
        memory: is told of each, when all ranks have it; holds the first one.
        writer: on rank 0.
        say: is told of a recovery, once training goes on.
    """

    def __init__(
        self,
        step: Step,
        settings: TrainSettings,
        memory: RankMemory,
        writer: Writer | None,
        say: Callable[[str], None],
    ) -> None:
        assert memory.last is not None
        self._step, self._settings, self._writer = step, settings, writer
        self._memory, self._say, self._last = memory, say, memory.last
        self._spare: Snapshot | None = None
        self._steps = 0
        self._written_s = time.monotonic()

    def after_step(self, position: Position, ledger: RowLedger) -> None:
        self._steps += 1
        if recovery := self._memory.stepped(position):
            self._say(recovery.line())
        every_rows = self._settings.checkpoint_rows
        before = self._last.position.row
        full = every_rows is not None and position.row // every_rows > before // every_rows
        if self._steps % self._settings.commit_steps == 0 or full:
            self._commit(position, ledger, full)

    def after_epoch(self, position: Position) -> None:
        self._commit(position, RowLedger(), True)

    def _commit(self, position: Position, ledger: RowLedger, write: bool) -> None:
        busy = self._writer.busy if self._writer else None
        spare = self._spare if self._spare is not busy else None
        self._spare = None
        snapshot = take(self._step, position, ledger, spare)
        self._spare, self._last = self._last, snapshot
        late = time.monotonic() - self._written_s > self._settings.checkpoint_s
        if self._writer and (write or late) and self._writer.offer(snapshot):
            self._written_s = time.monotonic()
        self._memory.committed(snapshot)
