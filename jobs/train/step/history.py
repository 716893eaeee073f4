"""What training has measured so far: epochs, the best of them, and the position in the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from jobs.train.step.rowledger import NO_ROWS, RowCount

BestBy = Literal["auc", "loss"]


@dataclass(frozen=True)
class EpochResult:
    """One epoch. Times are rank 0's; what was not measured is None.

    Attributes:
        train_loss: weighted mean over the epoch's batches, each before its step.
        val_auc_error: bound on the error of `val_auc`.
        wait_s, exchange_s, compute_s: waiting for data, waiting for other ranks, and the rest.
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

    def cost(self, best_by: BestBy) -> float | None:
        """What the best epoch has least of: minus the AUC, or the loss where there is no AUC."""
        return -self.val_auc if best_by == "auc" and self.val_auc is not None else self.val_loss


@dataclass
class History:
    """All epochs and the best one. Without validation rows, the last one is the best."""

    epochs: list[EpochResult] = field(default_factory=list)
    best: EpochResult | None = None

    def add(self, result: EpochResult, best_by: BestBy = "auc") -> bool:
        """Takes an epoch in; returns whether it is the best so far, the first of equals."""
        self.epochs.append(result)
        cost, lowest = result.cost(best_by), self.best.cost(best_by) if self.best else None
        if cost is None or lowest is None or cost < lowest:
            self.best = result
            return True
        return False

    def epochs_since_best(self) -> int:
        return self.epochs[-1].epoch - self.best.epoch if self.best else 0

    def copy(self) -> History:
        """One that epochs can be added to while this one is being written."""
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
    """Where training is, and what its epoch has added up, of all ranks together.

    Attributes:
        row: rows of the epoch consumed.
        loss, weight: sums over the steps of the epoch; loss times weight, and weight.
        trained: what the row ledger counted.
        seconds, wait_s, compute_s, exchange_s, bytes_sent: as in `EpochResult`.
        history: of the epochs before.
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

    def named(self) -> str:
        """For people, who count epochs from 1."""
        return f"epoch {self.epoch + 1}, row {self.row}"
