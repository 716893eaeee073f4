"""The training loop: epochs of steps, validation after each, the best epoch kept."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Protocol

from jobs.sections import TrainSettings
from jobs.train.batch import Batch
from jobs.train.progress import Reporter
from jobs.train.rowledger import RowCount, RowLedger, check
from jobs.train.step import Step, schedule_factor
from jobs.train.validation import Validation, validate


class Batches(Protocol):
    """What the loop needs of a `Stream`."""

    @property
    def rows(self) -> int:
        """Of an epoch, all ranks together."""

    def epoch(self, epoch: int, start_row: int = 0) -> Iterator[Batch]:
        """This rank's pieces, in lock step with the other ranks'."""


@dataclass(frozen=True)
class EpochResult:
    """One epoch. Times are rank 0's; what was not measured is None.

    Attributes:
        train_loss: weighted mean over the epoch's batches, each before its step.
        val_auc_error: bound on the error of `val_auc`.
        wait_s, compute_s, exchange_s: waiting for data, in the model and optimizer, in exchanges.
        val_s: of the validation.
        bytes_sent: by rank 0 in exchanges.
    """

    epoch: int
    train_loss: float
    val_loss: float | None
    val_auc: float | None
    val_auc_error: float | None
    rows: int
    seconds: float
    wait_s: float
    compute_s: float
    exchange_s: float
    val_s: float
    bytes_sent: int

    def metrics(self) -> dict[str, float]:
        """By name, for MLflow and the ledger."""
        values = asdict(self)
        del values["epoch"]
        return {name: float(value) for name, value in values.items() if value is not None}

    def line(self, epochs: int) -> str:
        parts = [f"epoch {self.epoch + 1} of {epochs}: train loss {self.train_loss:.4f}"]
        if self.val_loss is not None:
            parts.append(f"val loss {self.val_loss:.4f}")
        if self.val_auc is not None:
            parts.append(f"val AUC {self.val_auc:.4f}")
        parts.append(f"{self.rows / self.seconds:,.0f} rows/s")
        parts.append(f"wait {self.wait_s:.1f} s")
        parts.append(f"compute {self.compute_s:.1f} s")
        parts.append(f"exchange {self.exchange_s:.1f} s")
        return ", ".join(parts)

    @property
    def cost(self) -> float | None:
        """What the best epoch has least of: minus the AUC, or the loss where there is none."""
        return -self.val_auc if self.val_auc is not None else self.val_loss


@dataclass
class History:
    """All epochs and the best one. Without validation rows, the last one is the best."""

    epochs: list[EpochResult] = field(default_factory=list)
    best: EpochResult | None = None

    def add(self, result: EpochResult) -> bool:
        """Takes an epoch in; returns whether it is the best so far, the first of equals."""
        self.epochs.append(result)
        cost, lowest = result.cost, self.best.cost if self.best else None
        if cost is None or lowest is None or cost < lowest:
            self.best = result
            return True
        return False

    def epochs_since_best(self) -> int:
        assert self.best is not None
        return self.epochs[-1].epoch - self.best.epoch


def fit(
    step: Step,
    train: Batches,
    validation: Batches | None,
    settings: TrainSettings,
    written: RowCount,
    keep: Callable[[EpochResult], None],
    reporter: Reporter,
) -> History:
    """Trains `train.epochs` epochs, or until the validation metric stops getting better.

    Args:
        step: holds model, optimizer and exchange.
        train, validation: the streams of this rank.
        written: what the ETL wrote, for the row ledger.
        keep: called after each epoch that is the best so far.
        reporter: is told how far this is.

    Raises:
        Diverged: a loss is not finite.
        RowsMissed: an epoch did not train each row once.
    """
    history = History()
    for epoch in range(settings.epochs):
        result = _epoch(step, train, validation, settings, written, epoch, reporter)
        reporter.say(result.line(settings.epochs))
        if history.add(result):
            keep(result)
        patience = settings.early_stop_epochs
        if patience is not None and history.epochs_since_best() >= patience:
            break
    return history


@dataclass
class _Times:
    wait_s: float = 0.0
    compute_s: float = 0.0
    exchange_s: float = 0.0


def _epoch(
    step: Step,
    train: Batches,
    validation: Batches | None,
    settings: TrainSettings,
    written: RowCount,
    epoch: int,
    reporter: Reporter,
) -> EpochResult:
    started, bytes_before = time.perf_counter(), step.exchange.bytes_sent
    times, ledger = _Times(), RowLedger()
    train_loss = _train(step, train, settings, epoch, times, ledger, reporter)
    check(ledger.total(step.exchange), written, epoch)
    trained = time.perf_counter()
    measured = (
        validate(step.model, validation.epoch(0), step.exchange) if validation is not None else None
    )
    return EpochResult(
        epoch=epoch,
        train_loss=train_loss,
        rows=train.rows,
        seconds=trained - started,
        wait_s=times.wait_s,
        compute_s=times.compute_s,
        exchange_s=times.exchange_s,
        val_s=time.perf_counter() - trained,
        bytes_sent=step.exchange.bytes_sent - bytes_before,
        **_measured(measured),
    )


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
    epoch: int,
    times: _Times,
    ledger: RowLedger,
    reporter: Reporter,
) -> float:
    """Runs the epoch's steps; returns the weighted mean of their losses."""
    title = f"epoch {epoch + 1} of {settings.epochs}"
    loss, weight, row = 0.0, 0.0, 0
    waiting = time.perf_counter()
    for batch in train.epoch(epoch):
        times.wait_s += time.perf_counter() - waiting
        # Of the global batch, so that every rank has the same rate.
        rows = min(settings.batch_rows, train.rows - row)
        middle = epoch * train.rows + row + rows / 2
        done = step.run(batch, schedule_factor(settings, middle, settings.epochs * train.rows))
        ledger.add(batch)
        loss, weight, row = loss + done.loss * done.weight, weight + done.weight, row + rows
        times.compute_s += done.compute_s
        times.exchange_s += done.exchange_s
        reporter.rows(title, row, train.rows)
        waiting = time.perf_counter()
    return loss / weight
