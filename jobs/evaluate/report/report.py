"""The report of an evaluation: one HTML file that needs no network. Pictures before numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

import fsspec

from jobs.evaluate.gate.gate import HIGHER_IS_BETTER, Verdict
from jobs.evaluate.measure.metrics import Metrics
from jobs.evaluate.report.page import PAGE, STYLE
from jobs.evaluate.report.pictures import (
    days_picture,
    drift_picture,
    model_pictures,
    training_pictures,
)


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


def write_report(url: str, report: Report) -> None:
    with fsspec.open(url, "w", encoding="utf-8", auto_mkdir=True) as file:
        file.write(render(report))


def render(report: Report) -> str:
    """The report as an HTML page."""
    parts = [
        f"<header><h1>{escape(report.title)}</h1><p>{escape(report.subtitle)}</p></header>",
        _verdict(report.verdict) if report.verdict else "",
        _tiles(report.metrics),
        f'<div class="grid">{"".join(_pictures(report))}</div>',
        _metrics_table(report),
        _slices_table(report),
        _read_table(report.read),
        _facts(report.facts),
    ]
    body = "\n".join(part for part in parts if part)
    return PAGE.format(title=escape(report.title), style=STYLE, body=body)


def _pictures(report: Report) -> list[str]:
    pictures = model_pictures(report.metrics, report.champion) + training_pictures(report.curves)
    if days := report.read.days.values():
        refused = [day.get("quarantined", 0) + day.get("label_absent", 0) for day in days]
        pictures.append(days_picture([day.get("raw", 0) for day in days], refused))
    if report.read.drift:
        pictures.append(drift_picture(report.read.drift))
    return pictures


def _verdict(verdict: Verdict) -> str:
    kind = "passed" if verdict.passed else "refused"
    checks = "".join(
        f"<li class='{'no' if words in verdict.reasons else 'yes'}'>{escape(words)}</li>"
        for words in verdict.checks
    )
    return f"<section class='verdict {kind}'><h2>Gate: {kind}</h2><ul>{checks}</ul></section>"


def _tiles(metrics: Metrics) -> str:
    names = ("auc", "pr_auc", "accuracy", "log_loss", "ece", "base_rate", "rmse", "mae", "r2")
    shown = [(name, f"{metrics.values[name]:.4f}") for name in names if name in metrics.values]
    shown.append(("rows", f"{metrics.rows:,}"))
    tiles = "".join(f"<div><b>{value}</b>{_title(name)}</div>" for name, value in shown)
    return f"<section class='tiles'>{tiles}</section>"


def _title(name: str) -> str:
    return (
        name.upper()
        if name in ("auc", "ece", "rmse", "mae", "r2", "f1")
        else name.replace("_", " ")
    )


def _metrics_table(report: Report) -> str:
    champion, metrics = report.champion, report.metrics
    rows = []
    for name, value in metrics.values.items():
        margin = metrics.margin(name, report.confidence)
        cells = f"<td>{value:.6f}{_plus_minus(margin)}</td>"
        if champion:
            before = champion.values.get(name, math.nan)
            cells += f"<td>{before:.6f}</td>{_change(name, value - before)}"
        rows.append(f"<tr><th>{_title(name)}</th>{cells}</tr>")
    heads = "<th></th><th>this model</th>" + (
        "<th>champion</th><th>change</th>" if champion else ""
    )
    note = f"<p class='soft'>± {report.confidence:.0%}, jackknife over blocks of the entity</p>"
    return _section("Metrics", f"<table><tr>{heads}</tr>{''.join(rows)}</table>{note}")


def _plus_minus(margin: float) -> str:
    return f" <span class='soft'>± {margin:.2g}</span>" if math.isfinite(margin) else ""


def _change(name: str, change: float) -> str:
    higher = HIGHER_IS_BETTER.get(name)
    known = higher is not None and change != 0 and math.isfinite(change)
    kind = "" if not known else "yes" if (change > 0) == higher else "no"
    return f"<td class='{kind}'>{change:+.6f}</td>"


def _slices_table(report: Report) -> str:
    """A bar a slice, with its interval, of the metric that ranks models."""
    slices = report.metrics.slices
    if not slices:
        return ""
    name = "auc" if report.metrics.task == "binary" else "rmse"
    values = [s.values.get(name, math.nan) for s in slices.values()]
    highest = max((value for value in values if math.isfinite(value)), default=1.0) or 1.0
    rows = []
    for (slice_, measured), value in zip(slices.items(), values, strict=True):
        margin = measured.margin(name, report.confidence)
        cells = f"<td>{measured.rows:,}</td><td>{value:.4f}{_plus_minus(margin)}</td>"
        cells += f"<td class='bar'>{_bar(value, margin, highest)}</td>"
        if report.champion:
            before = report.champion.slices.get(slice_)
            change = value - before.values.get(name, math.nan) if before else math.nan
            cells += _change(name, change)
        rows.append(f"<tr><th>{escape(slice_)}</th>{cells}</tr>")
    heads = f"<th></th><th>rows</th><th>{_title(name)}</th><th></th>"
    heads += "<th>change</th>" if report.champion else ""
    table = f"<div class='wide'><table><tr>{heads}</tr>{''.join(rows)}</table></div>"
    return _section("Slices", table)


def _bar(value: float, margin: float, highest: float) -> str:
    if not math.isfinite(value):
        return ""
    width = max(0.0, value / highest * 85)
    bar = f"<i style='width:{width:.1f}%'></i>"
    if not math.isfinite(margin):
        return bar
    low, long = (value - margin) / highest * 85, 2 * margin / highest * 85
    return f"{bar}<i class='whisker' style='left:{max(0.0, low):.1f}%;width:{long:.1f}%'></i>"


def _read_table(read: RowsRead) -> str:
    """What was read, and the reasons against what was refused, most frequent first."""
    if not read.days:
        return ""
    names = dict.fromkeys(name for day in read.days.values() for name in day)
    totals = {name: sum(day.get(name, 0) for day in read.days.values()) for name in names}
    counts = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in totals.items())
    first, last = min(read.days), max(read.days)
    most = max(read.reasons.values(), default=1)
    rows = "".join(
        f"<tr><th>{escape(reason)}</th><td>{count:,}</td>"
        f"<td class='bar'>{_bar(count, math.nan, most)}</td></tr>"
        for reason, count in sorted(read.reasons.items(), key=lambda pair: (-pair[1], pair[0]))
    )
    table = f"<table>{rows}</table>" if rows else "<p>No row was refused.</p>"
    return _section("Read and refused", f"<p>{first}..{last}: {counts}</p>{table}")


def _section(title: str, content: str) -> str:
    return f"<section><h2>{title}</h2>{content}</section>"


def _facts(facts: Mapping[str, str]) -> str:
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td><code>{escape(text)}</code></td></tr>"
        for name, text in facts.items()
    )
    return _section("Versions and digests", f"<table class='facts'>{rows}</table>")
