"""Commits: snapshots that all ranks take every few steps; some are written as checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from jobs.settings.train import TrainSettings
from jobs.train.exchange.exchange import Exchange
from jobs.train.keep.snapshot import Snapshot, take
from jobs.train.keep.writer import Writer
from jobs.train.step.history import Position
from jobs.train.step.loop import Reporter
from jobs.train.step.rowledger import RowLedger
from jobs.train.step.step import Step
from jobs.train.tables.copies import told


@dataclass(frozen=True)
class Recovery:
    """The cost of losing ranks, or of taking in new ones.

    Attributes:
        lost: names of the ranks that were lost; empty where ranks only joined.
        ranks: number of ranks with which training goes on.
        detected_s: seconds that the failed exchange took until it failed.
        redone_rows: rows trained since where training goes on, which are trained again.
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
        writer: of checkpoints and models, on the rank that is rank 0, or was; on all where tables
            are sharded.
        reporter: of the progress, on the rank that is rank 0, or was, where others show it.
        recoveries: those that have ended.
        recovering: the one that has not ended, as far as it is known, and when it began
            (`time.monotonic`).
    """

    def __init__(self) -> None:
        self.last: Snapshot | None = None
        self.reached: Position | None = None
        self.writer: Writer | None = None
        self.reporter: Reporter | None = None
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

    def agree(self, exchange: Exchange) -> int | None:
        """Goes back to the last commit that all ranks have, and returns a rank that has it.

        All ranks must call this; None where no rank has any.
        """
        tables = self.last.tables if self.last else None
        number = -1 if self.last is None else tables.number if tables else 0
        numbers = [of for (of,) in told(exchange, [number])]
        if max(numbers) < 0:
            return None
        common = min(of for of in numbers if of >= 0)
        if self.last is not None and tables is not None:
            self.last = replace(self.last, tables=tables.back_to(common))
        return numbers.index(common)

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

    def goes_back(self, to: Position, epoch_rows: int) -> None:
        """Called when training starts before the last commit.

        Args:
            to: where it starts.
            epoch_rows: rows of an epoch.
        """
        if self.recovering is not None and self.last is not None:
            change, began = self.recovering
            rows = self.last.position.total_rows(epoch_rows) - to.total_rows(epoch_rows)
            self.recovering = replace(change, redone_rows=change.redone_rows + rows), began

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
    so is the first snapshot later than `train.checkpoint_s` seconds after the last checkpoint. With
    the snapshot after the best epoch so far its model is written.

    Args:
        memory: keeps the last snapshot; has the first one already.
        writer: of checkpoints and models, on rank 0, and where tables are sharded on all; None on
            the others.
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
        if self._writer is not None:
            self._writer.make_room(position)
        best = position.history.best
        is_best = best is not None and best.epoch == position.epoch - 1
        self._commit(position, RowLedger(), True, is_best)

    def pause(self, position: Position, ledger: RowLedger) -> None:
        """Has a checkpoint of this position written, whatever was written when."""
        self.settle()
        self._commit(position, ledger, True)

    def settle(self) -> None:
        """Waits until nothing is being written, so that what is offered next will be."""
        if self._writer is not None:
            self._writer.settle()

    def _commit(
        self, position: Position, ledger: RowLedger, write: bool, is_best: bool = False
    ) -> None:
        held = self._writer.holding if self._writer else ()
        is_free = all(snapshot is not self._last for snapshot in held)
        late = time.monotonic() - self._written_s > self._settings.checkpoint_s
        is_wanted = self._writer is not None and self._writer.agreed(write or late)
        reuse = self._last if is_free else None
        snapshot = take(self._step, position, ledger, reuse, self._last.tables)
        self._last = snapshot
        if self._writer and is_wanted and self._writer.offer(snapshot, is_best):
            self._written_s = time.monotonic()
        self._memory.committed(snapshot)
