"""What observers are told of each stage's result, in the ledger's words."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from jobs.etl.job import EtlResult
    from jobs.evaluate.job import EvaluateResult
    from jobs.evaluate.score import ScoreResult
    from jobs.train.job import TrainResult


class Facts(TypedDict):
    """Arguments of `Run.done`."""

    counts: dict[str, int]
    versions: dict[str, str]
    metrics: dict[str, float]


def of_etl(result: EtlResult) -> Facts:
    counts: Counter[str] = Counter()
    for tally in result.tallies.values():
        counts.update(tally.counts())
    return Facts(counts=dict(counts), versions={"examples": str(result.version)}, metrics={})


def of_train(result: TrainResult) -> Facts:
    return Facts(
        counts={"rows": result.best.rows},
        versions={"model": result.version},
        metrics=result.best.metrics(),
    )


def of_evaluate(result: EvaluateResult) -> Facts:
    return Facts(
        counts={"rows": result.metrics.rows},
        versions={"model": result.version, "examples": str(result.selection.examples.version)},
        metrics=dict(result.metrics.values),
    )


def of_score(result: ScoreResult) -> Facts:
    tallies = result.tallies.values()
    return Facts(
        counts={
            "raw": sum(tally.raw for tally in tallies),
            "predicted": sum(tally.predicted for tally in tallies),
            "quarantined": sum(tally.quarantined for tally in tallies),
        },
        versions={"predictions": str(result.version), "model": result.model_version},
        metrics={},
    )
