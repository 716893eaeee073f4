"""Commits: snapshots that all ranks take every few steps; some are written as checkpoints."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jobs.base.errors import Locked, MillstreamError
from jobs.settings.train import TrainSettings
from jobs.train.keep import checkpoint
from jobs.train.keep.snapshot import Snapshot, take
from jobs.train.step.history import Position
from jobs.train.step.rowledger import RowLedger
from jobs.train.step.step import Step


class StoreHangs(MillstreamError):
    """Writing a checkpoint takes longer than `train.checkpoint_timeout_s`."""


class Writer:
    """Writes checkpoints in another thread, one at a time; training does not wait for it.

    Args:
        folder: URL of the run's folder.
        identity: of the training, see `Checkpoint`.
        say: takes a line for the log when a checkpoint could not be written; training goes on.
        written: URLs of the run's complete checkpoints, the oldest first.
        check_lock: raises Locked when another run has taken over, which ends training.
    """

    def __init__(
        self,
        folder: str,
        identity: Mapping[str, Any],
        settings: TrainSettings,
        say: Callable[[str], None],
        written: list[str],
        check_lock: Callable[[], None] = lambda: None,
    ) -> None:
        self._check_lock, self._lost = check_lock, list[Locked]()
        self._folder, self._identity, self._settings, self._say = folder, identity, settings, say
        self._written = list(written)
        self._thread: threading.Thread | None = None
        self._busy: Snapshot | None = None
        self._since = 0.0

    @property
    def busy(self) -> Snapshot | None:
        """The snapshot that is being written, if any.

        Raises:
            StoreHangs: that takes too long.
            Locked: another run has taken over.
        """
        if self._lost:
            raise self._lost[0]
        limit_s = self._settings.checkpoint_timeout_s
        if self._busy is not None and time.monotonic() - self._since > limit_s:
            raise StoreHangs(
                f"a checkpoint is being written to {self._folder} for more than {limit_s} s",
                "a store that takes it in train.checkpoint_timeout_s",
                "look at the store, or raise the limit; --resume auto goes on from the last one",
            )
        return self._busy

    def offer(self, snapshot: Snapshot) -> bool:
        """Starts to write a snapshot, unless another one is being written.

        Returns:
            Whether it is being written.

        Raises:
            StoreHangs: writing the other one takes too long.
        """
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
            self._check_lock()
            self._written.append(checkpoint.write(self._folder, snapshot, self._identity))
            self._check_lock()
            checkpoint.prune(self._folder, self._settings.checkpoint_keep, self._written)
        except Locked as lost:
            self._lost.append(lost)
        except Exception as error:
            self._say(
                f"checkpoint at {snapshot.position.named()} not written: {error}; the one before "
                "stays, training goes on"
            )
        finally:
            self._busy = None

    def close(self) -> None:
        """Waits until the last snapshot is written.

        Raises:
            StoreHangs: that takes too long.
        """
        while self._thread is not None and self._thread.is_alive() and self.busy is not None:
            self._thread.join(0.2)
        if self._lost:
            raise self._lost[0]


@dataclass(frozen=True)
class Recovery:
    """The cost of losing ranks, or of taking in new ones.

    Attributes:
        lost: names of the ranks that were lost; empty where ranks only joined.
        ranks: number of ranks with which training goes on.
        detected_s: seconds that the failed exchange took until it failed.
        redone_rows: rows trained since the last commit, which are trained again.
        seconds: from the start of the failed exchange to the end of the next step.
    """

    lost: tuple[str, ...]
    ranks: int
    detected_s: float
    redone_rows: int
    seconds: float

    def line(self) -> str:
        """The recovery in one line for people."""
        ranks = "1 rank" if self.ranks == 1 else f"{self.ranks} ranks"
        if not self.lost:
            return f"{ranks} now, after {self.seconds:.1f} s; no row is trained again"
        return (
            f"lost {', '.join(self.lost)}, noticed after {self.detected_s:.1f} s; going on with "
            f"{ranks} after {self.seconds:.1f} s, {self.redone_rows:,} rows are "
            "trained again"
        )


class RankMemory:
    """What a rank's process keeps while training in it stops and starts again with other ranks.

    Attributes:
        last: the snapshot of the last commit.
        reached: the position after the last step.
        writer: of checkpoints, on the rank that is rank 0, or was.
        recoveries: those that have ended.
        recovering: the one that has not ended, as far as it is known, and when it began
            (`time.monotonic`).
    """

    def __init__(self) -> None:
        self.last: Snapshot | None = None
        self.reached: Position | None = None
        self.writer: Writer | None = None
        self.recoveries: list[Recovery] = []
        self.recovering: tuple[Recovery, float] | None = None

    def committed(self, snapshot: Snapshot) -> None:
        """Called when all ranks have taken a snapshot."""
        self.last = snapshot

    def stepped(self, position: Position) -> Recovery | None:
        """Called after each step; returns the recovery that ends with it, if any."""
        self.reached = position
        if self.recovering is None:
            return None
        known, began = self.recovering
        self.recovering = None
        self.recoveries.append(replace(known, seconds=time.monotonic() - began))
        return self.recoveries[-1]

    def interrupted(self, since: float | None) -> None:
        """Called when an exchange failed, or new ranks wait to join.

        Args:
            since: when the exchange that failed began (`time.monotonic`); None for new ranks.
        """
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
        """Called before training starts again.

        Args:
            last: the snapshot that it starts from.
            lost: names of the ranks that are gone.
            ranks: number of ranks now.
        """
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
    """Takes snapshots during training, and has some of them written as checkpoints.

    All ranks take one at the same steps: every `train.commit_steps` steps, every
    `train.checkpoint_rows` rows, and after each epoch. The last two are written as checkpoints, and
    so is the first snapshot later than `train.checkpoint_s` seconds after the last checkpoint.

    Args:
        memory: keeps the last snapshot; has the first one already.
        writer: of checkpoints, on rank 0; None on the others.
        say: takes a line for the log when a recovery has ended.
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
