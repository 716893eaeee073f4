"""What observers are told of each stage's result, in the ledger's words."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from jobs.etl.job import EtlResult
    from jobs.evaluate.result import EvaluateResult
    from jobs.evaluate.score import ScoreResult
    from jobs.train.result import TrainResult
    from jobs.tune.job import TuneResult


class Facts(TypedDict):
    """Arguments of `Run.done`."""

    counts: dict[str, int]
    versions: dict[str, str]
    metrics: dict[str, float]


def of_etl(result: EtlResult) -> Facts:
    counts: Counter[str] = Counter()
    for of_date in result.counts.values():
        counts.update(of_date.ledger())
    return Facts(counts=dict(counts), versions={"examples": str(result.version)}, metrics={})


def of_train(result: TrainResult) -> Facts:
    return Facts(
        counts={"rows": result.best.rows},
        versions={"model": result.version},
        metrics=result.best.metrics(),
    )


def of_tune(result: TuneResult) -> Facts:
    best = result.best.value if result.best is not None else None
    model = {"model": result.version} if result.version else {}
    return Facts(
        counts={
            "trials": len(result.told),
            "failed": result.failed,
            "stopped": result.stopped,
            "rows": sum(one.rows for one in result.told),
        },
        versions={**model, "study": result.study},
        metrics={result.metric: best} if best is not None else {},
    )


def of_evaluate(result: EvaluateResult) -> Facts:
    return Facts(
        counts={"rows": result.metrics.rows},
        versions={"model": result.version, "examples": str(result.selection.examples.version)},
        metrics=dict(result.metrics.values),
    )


def of_score(result: ScoreResult) -> Facts:
    counts = result.counts.values()
    return Facts(
        counts={
            "raw": sum(one.raw for one in counts),
            "predicted": sum(one.valid for one in counts),
            "quarantined": sum(one.quarantined for one in counts),
        },
        versions={"predictions": str(result.version), "model": result.model_version},
        metrics={},
    )
