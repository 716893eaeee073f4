"""The report of an evaluation: one HTML file that needs no network. Pictures before numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import fsspec

from jobs.base import pages
from jobs.evaluate.gate.gate import HIGHER_IS_BETTER, Verdict
from jobs.evaluate.measure.metrics import Metrics
from jobs.evaluate.report.pictures import (
    days_picture,
    drift_picture,
    model_pictures,
    training_pictures,
)
from jobs.settings.redact import without_users


@dataclass(frozen=True)
class RowsRead:
    """What the ETL read of the dates and refused.

    Attributes:
        days: counts by name (`raw`, the splits, `quarantined`, `label_absent`) of each date.
        reasons: rows by reason; a row may have several.
        drift: field -> population stability index by date, NaN where not measured.
    """

    days: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    reasons: Mapping[str, int] = field(default_factory=dict)
    drift: Mapping[str, Sequence[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """What the report shows.

    Attributes:
        title: names the model.
        subtitle: what it was measured on.
        metrics, champion: measured on the same rows.
        curves: metric -> value by epoch.
        facts: versions and digests, by name.
        confidence: of the intervals shown.
        settings: that the model was trained with, as JSON.
    """

    title: str
    subtitle: str
    metrics: Metrics
    curves: Mapping[str, Sequence[float]]
    facts: Mapping[str, str]
    champion: Metrics | None = None
    verdict: Verdict | None = None
    read: RowsRead = RowsRead()
    confidence: float = 0.95
    settings: str = "{}"


@dataclass(frozen=True)
class Bar:
    """A bar in a table's cell, in percent of the cell's width.

    Attributes:
        width: None for no bar.
        whisker: left end and width of the interval around its end.
    """

    width: str | None = None
    whisker: tuple[str, str] | None = None


def write_report(url: str, report: Report) -> None:
    with fsspec.open(url, "w", encoding="utf-8", auto_mkdir=True) as file:
        file.write(render(report))


def render(report: Report) -> str:
    """The report as an HTML page."""
    verdict = report.verdict
    pictures = [pages.Markup(picture) for picture in _pictures(report)]
    return pages.render(
        "report.html",
        title=report.title,
        subtitle=report.subtitle,
        verdict=verdict,
        checks=[(words, words in verdict.reasons) for words in verdict.checks] if verdict else [],
        tiles=list(_tiles(report.metrics)),
        pictures=pictures,
        compared=report.champion is not None,
        metrics=list(_metrics(report)),
        confidence=f"{report.confidence:.0%}",
        slices_by=_title(_ranking_metric(report.metrics)),
        slices=list(_slices(report)),
        counts=_counts(report.read),
        reasons=list(_reasons(report.read)),
        facts=report.facts,
        settings=list(_leaves(json.loads(without_users(report.settings)))),
    )


def _pictures(report: Report) -> list[str]:
    pictures = model_pictures(report.metrics, report.champion) + training_pictures(report.curves)
    dates = list(report.read.days)
    if days := report.read.days.values():
        refused = [_refused(day) for day in days]
        pictures.append(days_picture(dates, [day.get("raw", 0) for day in days], refused))
    if report.read.drift:
        pictures.append(drift_picture(dates, report.read.drift))
    return pictures


def _refused(day: Mapping[str, int]) -> int:
    return day.get("quarantined", 0) + day.get("label_absent", 0)


def _tiles(metrics: Metrics) -> Iterator[tuple[str, str]]:
    names = ("auc", "pr_auc", "accuracy", "log_loss", "ece", "base_rate", "rmse", "mae", "r2")
    for name in names:
        if name in metrics.values:
            yield _title(name), f"{metrics.values[name]:.4f}"
    yield "rows", f"{metrics.rows:,}"


def _title(name: str) -> str:
    return (
        name.upper()
        if name in ("auc", "ece", "rmse", "mae", "r2", "f1")
        else name.replace("_", " ")
    )


def _metrics(report: Report) -> Iterator[dict[str, Any]]:
    for name, value in report.metrics.values.items():
        row: dict[str, Any] = {
            "name": _title(name),
            "value": f"{value:.6f}",
            "margin": _margin(report.metrics.margin(name, report.confidence)),
        }
        if report.champion:
            before = report.champion.values.get(name, math.nan)
            row |= {"before": f"{before:.6f}", "change": _change(name, value - before)}
        yield row


def _margin(margin: float) -> str:
    return f"{margin:.2g}" if math.isfinite(margin) else ""


def _change(name: str, change: float) -> dict[str, str]:
    higher = HIGHER_IS_BETTER.get(name)
    known = higher is not None and change != 0 and math.isfinite(change)
    kind = "" if not known else "yes" if (change > 0) == higher else "no"
    return {"kind": kind, "text": f"{change:+.6f}"}


def _ranking_metric(metrics: Metrics) -> str:
    return {"binary": "auc", "regression": "rmse", "multiclass": "accuracy"}[metrics.task]


def _slices(report: Report) -> Iterator[dict[str, Any]]:
    """A bar a slice, with its interval, of the metric that ranks models."""
    slices = report.metrics.slices
    name = _ranking_metric(report.metrics)
    values = [s.values.get(name, math.nan) for s in slices.values()]
    highest = max((value for value in values if math.isfinite(value)), default=1.0) or 1.0
    for (group, measured), value in zip(slices.items(), values, strict=True):
        margin = measured.margin(name, report.confidence)
        row = {
            "name": str(group),
            "rows": f"{measured.rows:,}",
            "value": f"{value:.4f}",
            "margin": _margin(margin),
            "bar": _bar(value, margin, highest),
        }
        if report.champion:
            before = report.champion.slices.get(group)
            row["change"] = _change(
                name, value - before.values.get(name, math.nan) if before else math.nan
            )
        yield row


def _bar(value: float, margin: float, highest: float) -> Bar:
    if not math.isfinite(value):
        return Bar()
    width = f"{max(0.0, value / highest * 85):.1f}"
    if not math.isfinite(margin):
        return Bar(width)
    low, long = (value - margin) / highest * 85, 2 * margin / highest * 85
    return Bar(width, (f"{max(0.0, low):.1f}", f"{long:.1f}"))


def _counts(read: RowsRead) -> str:
    """What was read of which dates; empty when nothing is known."""
    if not read.days:
        return ""
    names = dict.fromkeys(name for day in read.days.values() for name in day)
    totals = {name: sum(day.get(name, 0) for day in read.days.values()) for name in names}
    counts = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in totals.items())
    return f"{min(read.days)}..{max(read.days)}: {counts}"


def _reasons(read: RowsRead) -> Iterator[tuple[str, str, Bar]]:
    """The reasons against what was refused, most frequent first."""
    most = max(read.reasons.values(), default=1)
    for reason, count in sorted(read.reasons.items(), key=lambda pair: (-pair[1], pair[0])):
        yield reason, f"{count:,}", _bar(count, math.nan, most)


def _leaves(tree: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Dotted names and values of a tree of settings; a list of plain values is one."""
    if isinstance(tree, dict) and tree:
        for key, inner in tree.items():
            yield from _leaves(inner, f"{name}.{key}" if name else key)
    elif isinstance(tree, list) and any(isinstance(inner, dict) for inner in tree):
        for number, inner in enumerate(tree, 1):
            yield from _leaves(inner, f"{name}[{number}]")
    elif name:
        yield name, tree if isinstance(tree, str) else json.dumps(tree, ensure_ascii=False)
