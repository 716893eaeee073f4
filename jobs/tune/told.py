"""Trials of a study that have ended, as its journal has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from jobs.tune.samplers.space import Params

# Of a trial's attributes: what it was told with, and why it failed.
TOLD, FAILED = "millstream", "failed"


@dataclass(frozen=True)
class Told:
    """A trial that ended.

    Attributes:
        value: of the metric; None of one that failed or was stopped.
        facts: what was told with it, `params` and `folder` among it.
        failed: why it failed; empty where it did not.
        stopped: the rung that it did not go on from; None where it did from all.
        rungs: rows -> value of the metric, at each rung that it came to.
    """

    number: int
    params: Params
    value: float | None
    facts: Mapping[str, Any]
    failed: str
    stopped: int | None = None
    rungs: Mapping[int, float] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Rows that it trained, of all epochs."""
        return int(self.facts.get("rows", 0))

    @property
    def folder(self) -> str:
        """Where the trial kept what it made; empty where it did not begin."""
        return str(self.facts.get("folder", ""))


def told_of(trial: FrozenTrial) -> Told:
    """What a trial that ended was told of with."""
    return Told(
        trial.number,
        trial.user_attrs.get(TOLD, {}).get("params", {}),
        trial.value if trial.state == TrialState.COMPLETE else None,
        trial.user_attrs.get(TOLD, {}),
        trial.user_attrs.get(FAILED, ""),
        trial.last_step if trial.state == TrialState.PRUNED else None,
        trial.intermediate_values,
    )


def best_of(told: Sequence[Told], more: bool) -> Told | None:
    """The trial with the best value, the first of equals; None where all failed."""
    sign = -1 if more else 1
    ended = [(sign * one.value, one.number, one) for one in told if one.value is not None]
    return min(ended)[-1] if ended else None
