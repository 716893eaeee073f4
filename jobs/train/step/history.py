"""The measurements of the epochs so far, and the position in the epoch that is being trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from jobs.train.step.rowledger import NO_ROWS, RowCount

BestBy = Literal["auc", "loss"]


@dataclass(frozen=True)
class EpochResult:
    """The measurements of one epoch; times are rank 0's, in seconds.

    Attributes:
        epoch: its number, from 0.
        train_loss: weighted mean over the epoch's rows, of each batch before its step.
        val_loss: weighted mean over the validation rows; None without any.
        val_auc: of the validation rows; None without any, or where they have no AUC.
        val_auc_error: bound on the error of `val_auc`.
        rows: trained by all ranks together.
        seconds: of all steps, without the validation.
        wait_s: of `seconds`, those in which rank 0 waited for batches.
        exchange_s: of `seconds`, those in which it waited for other ranks.
        compute_s: of `seconds`, the others of its steps.
        val_s: seconds of the validation.
        bytes_sent: by rank 0 to other ranks.
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
        """The numbers that were measured, by name, for MLflow and the ledger."""
        values = asdict(self)
        del values["epoch"]
        return {name: float(value) for name, value in values.items() if value is not None}

    def line(self, epochs: int) -> str:
        """The epoch in one line for people; `epochs` is the number of all."""
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

    def cost(self, best_by: BestBy) -> float | None:
        """A number that is lowest for the best epoch: minus the AUC, or the validation loss.

        The loss stands in where there is no AUC; None where nothing was validated.
        """
        return -self.val_auc if best_by == "auc" and self.val_auc is not None else self.val_loss


@dataclass(frozen=True)
class Rung:
    """What the validation rows said where a training paused.

    Attributes:
        rows: that were trained, in all epochs.
        val_loss, val_auc: as in `EpochResult`.
    """

    rows: int
    val_loss: float | None
    val_auc: float | None


@dataclass
class History:
    """The epochs so far, and the best of them; without validation rows that is the last one."""

    epochs: list[EpochResult] = field(default_factory=list)
    best: EpochResult | None = None

    def add(self, result: EpochResult, best_by: BestBy = "auc") -> bool:
        """Adds an epoch; returns whether it is better than all before it."""
        self.epochs.append(result)
        cost, lowest = result.cost(best_by), self.best.cost(best_by) if self.best else None
        if cost is None or lowest is None or cost < lowest:
            self.best = result
            return True
        return False

    def epochs_since_best(self) -> int:
        """Number of epochs after the best one."""
        return self.epochs[-1].epoch - self.best.epoch if self.best else 0

    def copy(self) -> History:
        """A copy, so that epochs can be added to it while a checkpoint of this one is written."""
        return History(list(self.epochs), self.best)

    def to_json(self) -> dict[str, Any]:
        best = self.best.epoch if self.best else None
        return {"epochs": [asdict(epoch) for epoch in self.epochs], "best": best}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> History:
        epochs = [EpochResult(**epoch) for epoch in tree["epochs"]]
        return cls(epochs, next((e for e in epochs if e.epoch == tree["best"]), None))


@dataclass(frozen=True)
class Position:
    """How far training is, with the sums over the steps of the current epoch so far.

    Attributes:
        epoch: number of the current epoch, from 0.
        row: rows of the epoch that all ranks together have trained.
        loss: sum of the rows' losses, each times the row's weight.
        weight: sum of the rows' weights.
        trained: the row ledger's count, where it was taken.
        seconds, wait_s, compute_s, exchange_s, bytes_sent: as in `EpochResult`, so far.
        history: the epochs before.
    """

    epoch: int = 0
    row: int = 0
    loss: float = 0.0
    weight: float = 0.0
    trained: RowCount = NO_ROWS
    seconds: float = 0.0
    wait_s: float = 0.0
    compute_s: float = 0.0
    exchange_s: float = 0.0
    bytes_sent: int = 0
    history: History = field(default_factory=History)

    def total_rows(self, epoch_rows: int) -> int:
        """Rows trained in all epochs, of `epoch_rows` each."""
        return self.epoch * epoch_rows + self.row

    def named(self) -> str:
        """The position for people, who count epochs from 1."""
        return f"epoch {self.epoch + 1}, row {self.row}"
