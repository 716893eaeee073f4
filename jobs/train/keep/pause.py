"""A training that stops at a number of rows, to go on from a checkpoint there another time."""

from __future__ import annotations

from jobs.train.keep.commits import Committer
from jobs.train.step.history import Position
from jobs.train.step.loop import Commits
from jobs.train.step.rowledger import RowLedger


class Paused(Exception):
    """Training has come to where it was to stop. All ranks raise it after the same step.

    Attributes:
        position: there.
    """

    def __init__(self, position: Position) -> None:
        super().__init__(position.named())
        self.position = position


class Pausing:
    """Passes positions on to `commits`, and stops after the first step that reaches `rows`.

    An epoch that ends there is validated first, as it always is.

    Args:
        committer: writes the checkpoint.
        rows: of all epochs together.
        epoch_rows: of an epoch.
    """

    def __init__(
        self, commits: Commits, committer: Committer, *, rows: int, epoch_rows: int
    ) -> None:
        self._commits, self._committer = commits, committer
        self._rows, self._epoch_rows = rows, epoch_rows

    def is_there(self, position: Position) -> bool:
        """Whether so many rows are trained."""
        return position.total_rows(self._epoch_rows) >= self._rows

    def after_step(self, position: Position, ledger: RowLedger) -> None:
        if not self.is_there(position) or position.row == self._epoch_rows:
            self._commits.after_step(position, ledger)
            return
        self._committer.pause(position, ledger)
        raise Paused(position)

    def after_epoch(self, position: Position) -> None:
        paused = self.is_there(position)
        if paused:
            self._committer.settle()
        self._commits.after_epoch(position)
        if paused:
            raise Paused(position)
