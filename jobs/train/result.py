"""The result of a training, for whoever started it."""

from __future__ import annotations

from dataclasses import dataclass

from jobs.train.step.history import EpochResult


@dataclass(frozen=True)
class TrainResult:
    """What a run trained and registered.

    Attributes:
        version: in the registry.
        folder: of the model, in the lake.
        digest: of its weights.
        dates: first and last that it was trained over.
    """

    run: str
    version: str
    folder: str
    digest: str
    dates: tuple[str, str]
    history: tuple[EpochResult, ...]
    best: EpochResult
    seconds: float

    def summary(self) -> str:
        """One line: what was trained, how well, where it is."""
        metrics = {"val AUC": self.best.val_auc, "val loss": self.best.val_loss}
        measured = [f"{name} {value:.4f}" for name, value in metrics.items() if value is not None]
        return (
            f"model version {self.version}, {self.best.rows:,} rows of "
            f"{self.dates[0]}..{self.dates[1]}, best of {len(self.history)} epochs: "
            f"{self.best.epoch + 1} ({', '.join(measured) or 'not validated'}); written to "
            f"{self.folder} in {self.seconds:.0f} s"
        )
