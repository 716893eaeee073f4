"""The training loop: each epoch trains all rows and is validated; a history tells the best."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol

from jobs.batch.batch import Batch
from jobs.settings.train import TrainSettings
from jobs.train.step.history import EpochResult, History, Position, Rung
from jobs.train.step.optimizers import schedule_factor
from jobs.train.step.rowledger import RowCount, RowLedger, check
from jobs.train.step.step import Step
from jobs.train.step.validation import Validation, validate


class Reporter(Protocol):
    """Shows the progress of training."""

    def rows(self, title: str, rows: int, total_rows: int) -> None:
        """Shows that all ranks together have done `rows` of the `total_rows` of a part."""

    def say(self, line: str) -> None:
        """Writes one line to the log."""

    def close(self) -> None:
        """Shows what is not shown yet; within some seconds, whatever happens."""


class Batches(Protocol):
    """What the loop needs of a `Stream`."""

    @property
    def rows(self) -> int:
        """Rows of an epoch, of all ranks together."""

    def epoch(self, epoch: int, start_row: int = 0) -> Iterator[Batch]:
        """This rank's pieces of the global batches, from row `start_row` of the epoch.

        All ranks have the same number of pieces; some may be without rows.
        """


class Commits(Protocol):
    """Keeps positions that training can resume from."""

    def after_step(self, position: Position, ledger: RowLedger) -> None:
        """Called after each step.

        Args:
            position: after the step; its `trained` is still that of the ledger's beginning.
            ledger: of this rank, with the step's rows.
        """

    def after_epoch(self, position: Position) -> None:
        """Called after each epoch, with the beginning of the next one.

        The weights are still those that the epoch was measured with.
        """


class NoCommits:
    """Keeps nothing."""

    def after_step(self, position: Position, ledger: RowLedger) -> None:
        pass

    def after_epoch(self, position: Position) -> None:
        pass


def fit(
    step: Step,
    train: Batches,
    validation: Batches | None,
    settings: TrainSettings,
    written: RowCount,
    reporter: Reporter,
    start: Position | None = None,
    commits: Commits | None = None,
) -> History:
    """Trains `train.epochs` epochs, or until the validation has not improved for long enough.

    Args:
        step: with model, optimizers and exchange in the state that they had at `start`.
        train: this rank's stream of training rows.
        validation: its stream of validation rows, if any.
        written: count of the rows that the ETL wrote, which each epoch must train once.
        reporter: shows the progress.
        start: the position to resume from; the beginning when None.
        commits: keeps positions; none when None.

    Returns:
        All epochs, those before `start` too.

    Raises:
        Diverged: the loss of a batch or of the validation is not finite.
        RowsMissed: an epoch did not train each row exactly once.
    """
    position, commits = start or Position(), commits or NoCommits()
    while position.epoch < settings.epochs and not _stopped(position.history, settings):
        position = _train(step, train, settings, position, commits, reporter)
        check(position.trained, written, position.epoch)
        result = _result(position, train.rows, step, validation)
        reporter.say(result.line(settings.epochs))
        history = position.history.copy()
        history.add(result, settings.best_by)
        position = Position(epoch=position.epoch + 1, history=history)
        commits.after_epoch(position)
    return position.history


def _stopped(history: History, settings: TrainSettings) -> bool:
    patience = settings.early_stop_epochs
    return patience is not None and history.epochs_since_best() >= patience


def rung_at(position: Position, rows: int, step: Step, validation: Batches | None) -> Rung:
    """What the validation rows say of a training that paused; of a whole epoch they said it.

    Args:
        rows: of an epoch.

    Raises:
        Diverged: the loss of the validation is not finite.
    """
    total, epochs = position.total_rows(rows), position.history.epochs
    if position.row == 0 and epochs:
        return Rung(total, epochs[-1].val_loss, epochs[-1].val_auc)
    if validation is None:
        return Rung(total, None, None)
    found = _measured(_validated(step, validation))
    return Rung(total, found["val_loss"], found["val_auc"])


def _result(position: Position, rows: int, step: Step, validation: Batches | None) -> EpochResult:
    started = time.perf_counter()
    measured = _validated(step, validation) if validation is not None else None
    return EpochResult(
        epoch=position.epoch,
        train_loss=position.loss / position.weight,
        rows=rows,
        seconds=position.seconds,
        wait_s=position.wait_s,
        compute_s=position.compute_s,
        exchange_s=position.exchange_s,
        val_s=time.perf_counter() - started,
        bytes_sent=position.bytes_sent,
        **_measured(measured),
    )


def _validated(step: Step, validation: Batches) -> Validation:
    batches, sharded = validation.epoch(0), step.sharded
    device = sharded.reference.device
    return validate(step.model, device, batches, step.exchange, sharded.fetch, step.slices)


def _measured(measured: Validation | None) -> dict[str, float | None]:
    if measured is None:
        return {"val_loss": None, "val_auc": None, "val_auc_error": None}
    known = not math.isnan(measured.auc)
    return {
        "val_loss": measured.loss,
        "val_auc": measured.auc if known else None,
        "val_auc_error": measured.auc_error if known else None,
    }


def _train(
    step: Step,
    train: Batches,
    settings: TrainSettings,
    start: Position,
    commits: Commits,
    reporter: Reporter,
) -> Position:
    """Runs the steps from `start` to the end of its epoch, and returns the position there."""
    title, total_rows = f"epoch {start.epoch + 1} of {settings.epochs}", train.rows
    ledger, position = RowLedger(start.trained), start
    began, bytes_before = time.perf_counter(), step.exchange.bytes_sent
    waiting = began
    groups = together(train.epoch(start.epoch, start.row), settings.accumulate_steps)
    for batches, upcoming in with_next(groups, bool(step.sharded.tables)):
        wait_s = time.perf_counter() - waiting
        # The step's rows of all ranks, so that all have the same learning rate.
        rows = min(settings.step_rows, total_rows - position.row)
        # The middle of the step, in rows since the beginning of training.
        middle = start.epoch * total_rows + position.row + rows / 2
        rate = schedule_factor(settings, middle, settings.epochs * total_rows)
        done = step.run(*batches, rate=rate, upcoming=upcoming)
        for batch in batches:
            ledger.add(batch)
        position = replace(
            position,
            row=position.row + rows,
            loss=position.loss + done.loss * done.weight,
            weight=position.weight + done.weight,
            seconds=start.seconds + time.perf_counter() - began,
            wait_s=position.wait_s + wait_s,
            compute_s=position.compute_s + done.compute_s,
            exchange_s=position.exchange_s + done.exchange_s,
            bytes_sent=start.bytes_sent + step.exchange.bytes_sent - bytes_before,
        )
        reporter.rows(title, position.row, total_rows)
        commits.after_step(position, ledger)
        del batches, upcoming
        waiting = time.perf_counter()
    return replace(
        position,
        trained=ledger.total(step.exchange),
        seconds=start.seconds + time.perf_counter() - began,
    )


def together(batches: Iterator[Batch], count: int) -> Iterator[tuple[Batch, ...]]:
    """Groups of `count` batches; the last may have fewer."""
    while group := tuple(itertools.islice(batches, count)):
        yield group
        # Before the next ones are made: `stream.memory_mb` counts one group.
        del group


def with_next(
    groups: Iterator[tuple[Batch, ...]], is_known: bool
) -> Iterator[tuple[tuple[Batch, ...], tuple[Batch, ...]]]:
    """Each group, with the one after it where that is to be known; none after the last."""
    held = next(groups, ())
    while held:
        upcoming = next(groups, ()) if is_known else ()
        yield held, upcoming
        held = upcoming
        if not is_known:
            held = next(groups, ())
