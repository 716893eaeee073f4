"""The gate: whether a challenger may become champion. Pure, and closed by default."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from jobs.sections import GateSettings

HIGHER_IS_BETTER = {
    "auc": True,
    "accuracy": True,
    "log_loss": False,
    "brier": False,
    "ece": False,
    "rmse": False,
    "mae": False,
}


@dataclass(frozen=True)
class Verdict:
    """What the gate says.

    Attributes:
        passed: the challenger may become champion.
        reasons: against it, each by name; none when it passed.
        checks: what was compared, in words, whether it held or not.
    """

    passed: bool
    reasons: tuple[str, ...]
    checks: tuple[str, ...]


def judge(
    gate: GateSettings,
    challenger: Mapping[str, float],
    champion: Mapping[str, float] | None,
) -> Verdict:
    """Judges a challenger.

    Args:
        gate: thresholds on the value and on the gain over the champion.
        challenger: its metrics.
        champion: the champion's metrics on the same rows; None when there is none yet.
    """
    found = list(_checks(gate, challenger, champion))
    checks = tuple(words for _, words in found)
    reasons = tuple(words for held, words in found if not held)
    return Verdict(bool(found) and not reasons, reasons, checks)


def _checks(
    gate: GateSettings,
    challenger: Mapping[str, float],
    champion: Mapping[str, float] | None,
) -> Iterator[tuple[bool, str]]:
    """(held, in words) for each thing the gate looks at."""
    if gate.min_value is None and gate.max_value is None:
        yield False, "the gate has no threshold: set gate.min_value or gate.max_value"
    name = gate.metric
    value = challenger.get(name, math.nan)
    yield from _known("challenger", name, challenger)
    if gate.min_value is not None:
        yield value >= gate.min_value, f"{name} {value:.6g}, at least {gate.min_value:g} wanted"
    if gate.max_value is not None:
        yield value <= gate.max_value, f"{name} {value:.6g}, at most {gate.max_value:g} wanted"
    if champion is not None:
        yield from _known("champion", name, champion)
        yield _gain(gate, value, champion.get(name, math.nan))


def _known(who: str, name: str, metrics: Mapping[str, float]) -> Iterator[tuple[bool, str]]:
    if name not in metrics:
        yield False, f"the {who} has no metric {name!r}; it has {', '.join(sorted(metrics))}"
    elif not math.isfinite(metrics[name]):
        yield False, f"the {who}'s {name} is {metrics[name]}"


def _gain(gate: GateSettings, challenger: float, champion: float) -> tuple[bool, str]:
    higher = HIGHER_IS_BETTER[gate.metric]
    gain = challenger - champion if higher else champion - challenger
    # No gain at all is no reason to move, even where min_gain is 0.
    held = gain >= gate.min_gain and (gain > 0 or gate.min_gain < 0)
    direction = "higher" if higher else "lower"
    wanted = f"by at least {gate.min_gain:g}" if gate.min_gain else "by anything"
    words = f"{gate.metric} {challenger:.6g} against the champion's {champion:.6g}"
    return held, f"{words}: {direction} {wanted} wanted, found {gain:+.6g}"
