"""What an evaluation, and a comparison of two models, give."""

from __future__ import annotations

from dataclasses import dataclass

from jobs.evaluate.gate.gate import Verdict
from jobs.evaluate.measure.metrics import Metrics
from jobs.evaluate.measure.selection import Selection
from jobs.registry.version import ModelVersion


@dataclass(frozen=True)
class EvaluateResult:
    """What was measured, of which model, on which rows."""

    model: ModelVersion
    selection: Selection
    metrics: Metrics
    report_url: str
    seconds: float

    @property
    def version(self) -> str:
        return self.model.version

    @property
    def measured_on(self) -> str:
        """The rows, in words: a model has other metrics on others."""
        return f"{self.selection}, {self.metrics.rows:,} rows"

    def summary(self) -> str:
        """One line: what was measured, where the report is."""
        names = ("auc", "accuracy", "log_loss", "base_rate", "rmse", "mae")
        values = [f"{n} {self.metrics.values[n]:.4f}" for n in names if n in self.metrics.values]
        return (
            f"model version {self.version}, {self.measured_on}: {', '.join(values)}; "
            f"report {self.report_url}"
        )

    def facts(self, run_id: str, champion: EvaluateResult | None) -> dict[str, str]:
        """What the report says of the model and the rows."""
        tags, selection = self.model.tags, self.selection
        return {
            "run": run_id,
            "model version": self.version,
            "champion": champion.version if champion else "none compared",
            "trained by": tags["run_id"],
            "trained over": tags["dates"],
            "examples": f"{selection.examples.url}, version {selection.examples.version}",
            "weights": tags["weights_digest"],
            "state": tags["state_digest"],
            "declaration": tags["declaration"],
            "code": " ".join(filter(None, (tags.get("code", ""), tags.get("commit", "")))),
            **selection.early_fact,
        }


@dataclass(frozen=True)
class Comparison:
    """A challenger and the champion, measured on the same rows, and what the gate says.

    Attributes:
        champion: None where there is none, or the two read no rows alike.
        standing: the version that the challenger would replace, compared with or not; or empty.
    """

    challenger: EvaluateResult
    champion: EvaluateResult | None
    verdict: Verdict
    standing: str

    def summary(self) -> str:
        """Two lines: what was measured of the challenger, and what the gate says."""
        verdict = self.verdict
        said = (
            "would let it pass" if verdict.passed else f"refuses it: {'; '.join(verdict.reasons)}"
        )
        return f"{self.challenger.summary()}\n  the gate {said}"
