"""The report of an evaluation: one HTML file that needs no network. Pictures before numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

import fsspec

from jobs.evaluate.chart import Chart
from jobs.evaluate.gate import HIGHER_IS_BETTER, Verdict
from jobs.evaluate.metrics import Metrics

INK, SECOND, FAINT = "var(--ink)", "var(--second)", "var(--faint)"


@dataclass(frozen=True)
class Report:
    """What the report shows.

    Attributes:
        title: names the model.
        subtitle: what it was measured on.
        metrics, champion: measured on the same rows.
        curves: metric -> value by epoch.
        facts: versions and digests, by name.
    """

    title: str
    subtitle: str
    metrics: Metrics
    curves: Mapping[str, Sequence[float]]
    facts: Mapping[str, str]
    champion: Metrics | None = None
    verdict: Verdict | None = None


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
        _facts(report.facts),
    ]
    body = "\n".join(part for part in parts if part)
    return _PAGE.format(title=escape(report.title), style=_STYLE, body=body)


# Pictures


def _pictures(report: Report) -> list[str]:
    pictures = []
    if report.metrics.task == "binary":
        pictures = [_calibration(report), _roc(report), _distribution(report.metrics)]
    return pictures + _training(report.curves)


def _figure(title: str, chart: Chart, legend: Mapping[str, str] | None = None) -> str:
    keys = "".join(
        f'<span><i style="background:{colour}"></i>{escape(name)}</span>'
        for name, colour in (legend or {}).items()
    )
    caption = f"<figcaption>{escape(title)}<span class='keys'>{keys}</span></figcaption>"
    return f"<figure>{caption}{chart.svg()}</figure>"


def _both(report: Report) -> list[tuple[str, Metrics, str]]:
    """(name, metrics, colour) of the champion, when there is one, and of the model."""
    champion = [("champion", report.champion, SECOND)] if report.champion else []
    return [*champion, ("this model", report.metrics, INK)]


def _calibration(report: Report) -> str:
    chart = Chart((0, 1), (0, 1), "mean score", "share of positives")
    chart.line([(0, 0), (1, 1)], FAINT, 'stroke-dasharray="4 4"')
    for _, metrics, colour in _both(report):
        points = [(b.mean_score, b.mean_label) for b in metrics.calibration]
        chart.line(points, colour)
        for b, point in zip(metrics.calibration, points, strict=True):
            note = f"{b.rows:,} rows: score {b.mean_score:.4f}, positives {b.mean_label:.4f}"
            chart.dot(point, 2 + 5 * math.sqrt(b.weight / metrics.weight), colour, note)
    return _figure("Calibration", chart, {name: colour for name, _, colour in _both(report)})


def _roc(report: Report) -> str:
    chart = Chart((0, 1), (0, 1), "false positive rate", "true positive rate")
    chart.line([(0, 0), (1, 1)], FAINT, 'stroke-dasharray="4 4"')
    legend = {}
    for name, metrics, colour in _both(report):
        chart.line(metrics.roc, colour)
        legend[f"{name} {metrics.values['auc']:.4f}"] = colour
    return _figure("ROC, area", chart, legend)


def _distribution(metrics: Metrics) -> str:
    bins = len(metrics.histogram)
    shares = [share for pair in metrics.histogram for share in pair]
    chart = Chart((0, 1), (0, max(shares) * 1.05), "score", "share of rows")
    for label, colour in ((0, SECOND), (1, INK)):
        steps = [
            (edge / bins, pair[label])
            for bin_, pair in enumerate(metrics.histogram)
            for edge in (bin_, bin_ + 1)
        ]
        chart.area(steps, colour)
    return _figure("Scores by label", chart, {"label 0": SECOND, "label 1": INK})


def _training(curves: Mapping[str, Sequence[float]]) -> list[str]:
    """Losses, the validation metric, and where the time of an epoch went, over the epochs."""
    groups = {
        "Training: loss": ("train_loss", "val_loss"),
        "Training: validation AUC": ("val_auc",),
        "Training: seconds an epoch": ("compute_s", "exchange_s", "wait_s"),
    }
    pictures = []
    for title, names in groups.items():
        lines = {name: curves[name] for name in names if len(curves.get(name, ())) > 1}
        if lines:
            pictures.append(_epochs(title, lines))
    return pictures


def _epochs(title: str, curves: Mapping[str, Sequence[float]]) -> str:
    values = [value for line in curves.values() for value in line if math.isfinite(value)]
    low, high = min(values, default=0.0), max(values, default=1.0)
    margin = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
    longest = max(len(line) for line in curves.values())
    chart = Chart((1, longest), (low - margin, high + margin), "epoch", "")
    colours = dict(zip(curves, (INK, SECOND, FAINT) * len(curves), strict=False))
    for name, line in curves.items():
        points = [(epoch, v) for epoch, v in enumerate(line, 1) if math.isfinite(v)]
        for start, end in pairwise(points):
            chart.line([start, end], colours[name])
        for epoch, value in points:
            chart.dot((epoch, value), 3, colours[name], f"epoch {epoch}: {value:.6g}")
    return _figure(title, chart, colours)


# Numbers


def _verdict(verdict: Verdict) -> str:
    kind = "passed" if verdict.passed else "refused"
    checks = "".join(
        f"<li class='{'no' if words in verdict.reasons else 'yes'}'>{escape(words)}</li>"
        for words in verdict.checks
    )
    return f"<section class='verdict {kind}'><h2>Gate: {kind}</h2><ul>{checks}</ul></section>"


def _tiles(metrics: Metrics) -> str:
    names = ("auc", "log_loss", "ece", "base_rate", "rmse", "mae")
    shown = [(name, f"{metrics.values[name]:.4f}") for name in names if name in metrics.values]
    shown.append(("rows", f"{metrics.rows:,}"))
    tiles = "".join(f"<div><b>{value}</b>{_title(name)}</div>" for name, value in shown)
    return f"<section class='tiles'>{tiles}</section>"


def _title(name: str) -> str:
    return name.upper() if name in ("auc", "ece", "rmse", "mae") else name.replace("_", " ")


def _metrics_table(report: Report) -> str:
    champion = report.champion
    rows = []
    for name, value in report.metrics.values.items():
        cells = f"<td>{value:.6f}</td>"
        if champion:
            cells += f"<td>{champion.values[name]:.6f}</td>"
            cells += _change(name, value - champion.values[name])
        rows.append(f"<tr><th>{_title(name)}</th>{cells}</tr>")
    heads = "<th></th><th>this model</th>" + (
        "<th>champion</th><th>change</th>" if champion else ""
    )
    return f"<section><h2>Metrics</h2><table><tr>{heads}</tr>{''.join(rows)}</table></section>"


def _change(name: str, change: float) -> str:
    higher = HIGHER_IS_BETTER.get(name)
    kind = "" if higher is None or change == 0 else "yes" if (change > 0) == higher else "no"
    return f"<td class='{kind}'>{change:+.6f}</td>"


def _facts(facts: Mapping[str, str]) -> str:
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td><code>{escape(text)}</code></td></tr>"
        for name, text in facts.items()
    )
    return f"<section><h2>Versions and digests</h2><table class='facts'>{rows}</table></section>"


_STYLE = """
:root{--ink:#0b63ce;--second:#d9730d;--faint:#98a2b3;--text:#1d2433;--soft:#5b6577;--line:#e3e7ee;
--card:#fff;--page:#f5f6f9;--good:#0f7a43;--bad:#b42318}
@media (prefers-color-scheme:dark){:root{--ink:#66a8ff;--second:#ffab57;--faint:#667085;
--text:#e8ebf1;--soft:#a2abbb;--line:#2c3442;--card:#171c26;--page:#0f131a;--good:#4cc38a;
--bad:#ff8a7d}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1160px;padding:20px 16px 48px;background:var(--page);
color:var(--text);font:15px/1.5 system-ui,sans-serif}
h1{font-size:1.5rem;line-height:1.25;margin:0}h2{font-size:1rem;margin:0 0 8px}
header p{margin:4px 0 16px;color:var(--soft)}
section,figure{background:var(--card);border:1px solid var(--line);border-radius:10px;
padding:14px 16px;margin:0 0 14px;break-inside:avoid}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,330px),1fr));gap:14px;
margin-bottom:14px}
figure{margin:0}svg{display:block;width:100%;height:auto}
svg text{fill:var(--soft);stroke:none;font-size:11px}.rule{stroke:var(--line);stroke-width:1}
figcaption{font-weight:600;margin-bottom:6px}
.keys{float:right;font-weight:400;font-size:.8rem;color:var(--soft)}
.keys span{margin-left:12px;white-space:nowrap}
.keys i{display:inline-block;width:10px;height:10px;border-radius:3px;margin-right:5px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(100px,1fr));gap:12px}
.tiles div{color:var(--soft);font-size:.85rem}.tiles b{display:block;font-size:1.4rem;
color:var(--text);font-variant-numeric:tabular-nums}
table{border-collapse:collapse;width:100%}th{text-align:left;font-weight:500}
td,th{padding:5px 8px 5px 0;border-top:1px solid var(--line);vertical-align:top}
tr:first-child>*{border-top:0}td{font-variant-numeric:tabular-nums}
.facts th{width:30%;color:var(--soft)}code{overflow-wrap:anywhere;font-size:.85em}
ul{margin:0;padding-left:20px}.yes{color:var(--good)}.no{color:var(--bad)}
.verdict{border-left:5px solid var(--good)}.refused{border-left-color:var(--bad)}
@media print{body{background:#fff;padding:0}}
"""

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<title>{title}</title><style>{style}</style></head>
<body>
{body}
</body></html>
"""
