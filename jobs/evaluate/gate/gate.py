"""The gate: whether a challenger may become champion. Pure, and closed by default."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from jobs.evaluate.measure.group import Group
from jobs.evaluate.measure.jackknife import margin
from jobs.evaluate.measure.metrics import Metrics
from jobs.settings.evaluate import GateRule, GateSettings

HIGHER_IS_BETTER = {
    "auc": True,
    "pr_auc": True,
    "accuracy": True,
    "f1": True,
    "r2": True,
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


@dataclass(frozen=True)
class Check:
    """One thing that the gate looked at."""

    held: bool
    words: str


def decide(
    gate: GateSettings, challenger: Metrics, champion: Metrics | None, confidence: float = 0.95
) -> Verdict:
    """Decides whether a challenger may become the champion.

    Args:
        gate: the rules, and what to do without a champion.
        challenger: its metrics.
        champion: the champion's metrics on the same rows; None when there is none yet.
        confidence: of the intervals of changes.
    """
    checks = list(_checks(gate, challenger, champion, confidence))
    reasons = tuple(check.words for check in checks if not check.held)
    return Verdict(bool(checks) and not reasons, reasons, tuple(check.words for check in checks))


def _checks(
    gate: GateSettings, challenger: Metrics, champion: Metrics | None, confidence: float
) -> Iterator[Check]:
    if not gate.rules:
        yield Check(False, "the gate has no rule: give gate.rules thresholds")
    if champion is None and gate.first_model != "values":
        accepted = gate.first_model == "accept"
        yield Check(accepted, f"there is no champion yet (gate.first_model: {gate.first_model})")
        return
    if champion is None and all(r.min_value is None and r.max_value is None for r in gate.rules):
        yield Check(
            False,
            "there is no champion to compare with, and no rule has a min_value or max_value "
            "(or set gate.first_model: accept)",
        )
    for rule in gate.rules:
        yield from _judged(rule, challenger, champion, confidence)


def _judged(
    rule: GateRule, challenger: Metrics, champion: Metrics | None, confidence: float
) -> Iterator[Check]:
    """The checks of a rule, on all rows or on each group that it is about."""
    if not rule.slice:
        yield from _group_checks(rule, " of all rows", challenger, champion, False, confidence)
        return
    measured = {*challenger.slices, *(champion.slices if champion else ())}
    groups = [group for group in measured if rule.slice in (group.slice, str(group), group.plain)]
    for group in sorted(groups, key=str):
        ours = challenger.slices.get(group)
        theirs = champion.slices.get(group) if champion else None
        unmeasured = _unmeasured(str(group), ours, theirs, champion)
        yield from unmeasured
        if ours is not None and not unmeasured:
            where, skipped = f" of slice {group}", _is_skipped(rule, group, ours)
            yield from _group_checks(rule, where, ours, theirs, skipped, confidence)
    if not groups:
        yield from _unmeasured(rule.slice, None, None, champion)
    elif all(_is_skipped(rule, group, challenger.slices.get(group)) for group in groups):
        words = f"no group of slice {rule.slice} has {rule.min_rows:,} rows"
        yield Check(False, f"{words}: the rule on its {rule.metric} checked nothing")


def _is_skipped(rule: GateRule, group: Group, ours: Metrics | None) -> bool:
    """A group of a declared slice may be small by nature; a named one, or all rows, may not."""
    return ours is not None and rule.slice == group.slice and ours.rows < rule.min_rows


def _unmeasured(
    name: str, ours: Metrics | None, theirs: Metrics | None, champion: Metrics | None
) -> list[Check]:
    """A check that fails for each model that was not measured on a group."""
    absent = [("challenger", ours is None), ("champion", champion is not None and theirs is None)]
    return [
        Check(False, f"the {who} was not measured on slice {name!r}: evaluate.slices")
        for who, is_absent in absent
        if is_absent
    ]


def _group_checks(
    rule: GateRule,
    where: str,
    ours: Metrics,
    theirs: Metrics | None,
    skipped: bool,
    confidence: float,
) -> Iterator[Check]:
    if ours.rows < rule.min_rows:
        words = f"{ours.rows:,} rows{where}, at least {rule.min_rows:,} wanted"
        yield Check(skipped, f"{words}: not checked" if skipped else words)
        return
    yield from _rule_checks(rule, where, ours, theirs, confidence)


def _rule_checks(
    rule: GateRule, where: str, ours: Metrics, theirs: Metrics | None, confidence: float
) -> Iterator[Check]:
    known = [_known("challenger", rule, where, ours)]
    if theirs is not None and any(limit is not None for limit in rule.changes):
        known.append(_known("champion", rule, where, theirs))
    if unknown := [check for check in known if check]:
        yield from unknown
        return
    value, what = ours.values[rule.metric], f"{rule.metric}{where}"
    if rule.min_value is not None:
        words = f"{what} {value:.6g}, at least {rule.min_value:g} wanted"
        yield Check(value >= rule.min_value, words)
    if rule.max_value is not None:
        words = f"{what} {value:.6g}, at most {rule.max_value:g} wanted"
        yield Check(value <= rule.max_value, words)
    if theirs is not None:
        yield from _change_checks(rule, what, ours, theirs, confidence)


def _known(who: str, rule: GateRule, where: str, measured: Metrics) -> Check | None:
    """The check that fails where a metric is missing or no number; None where it is known."""
    name, values = rule.metric, measured.values
    if name not in values:
        has = ", ".join(sorted(values))
        return Check(False, f"the {who} has no metric {name!r}{where}; it has {has}")
    if not math.isfinite(values[name]):
        return Check(False, f"the {who}'s {name}{where} is {values[name]}")
    return None


def _change_checks(
    rule: GateRule, what: str, ours: Metrics, theirs: Metrics, confidence: float
) -> Iterator[Check]:
    sign = 1 if HIGHER_IS_BETTER[rule.metric] else -1
    new, old = ours.values[rule.metric], theirs.values[rule.metric]
    gain, direction = sign * (new - old), "higher" if sign > 0 else "lower"
    compared = f"{what} {new:.6g} against the champion's {old:.6g}"
    if rule.min_gain is not None:
        wanted = f"by at least {rule.min_gain:g}" if rule.min_gain else "by anything"
        # No gain at all is no reason to move, even where any gain is enough.
        held = gain >= rule.min_gain and (gain > 0 or rule.min_gain < 0)
        yield Check(held, f"{compared}: {direction} {wanted} wanted, found {gain:+.6g}")
    if rule.min_relative_gain is not None:
        yield _relative(rule.min_relative_gain, compared, gain, old)
    if rule.max_loss is not None:
        yield _not_inferior(rule, compared, gain, sign, ours, theirs, confidence)


def _relative(least: float, compared: str, gain: float, baseline: float) -> Check:
    if baseline == 0:
        return Check(False, f"{compared}: no share of a champion's value of 0 can be told")
    share = gain / abs(baseline)
    return Check(share >= least, f"{compared}: better by {least:.2%} wanted, found {share:+.2%}")


def _not_inferior(
    rule: GateRule,
    compared: str,
    gain: float,
    sign: int,
    ours: Metrics,
    theirs: Metrics,
    confidence: float,
) -> Check:
    """The lower end of the gain's interval, from the paired differences by jackknife block."""
    new, old = ours.replicates.get(rule.metric), theirs.replicates.get(rule.metric)
    half = math.nan if new is None or old is None else margin(sign * (new - old), confidence)
    if not math.isfinite(half):
        return Check(False, f"{compared}: the change has no interval")
    words = (
        f"{compared}: change {gain:+.6g} ± {half:.3g} ({confidence:.0%}), "
        f"no worse than {-rule.max_loss:g} wanted"  # type: ignore[operator]
    )
    return Check(gain - half >= -rule.max_loss, words)  # type: ignore[operator]
