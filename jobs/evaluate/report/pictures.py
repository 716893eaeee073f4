"""The pictures of a report, as HTML figures that hold SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from jobs.base.pages.chart import FAINT, INK, SECOND, Chart, figure
from jobs.evaluate.measure.metrics import Metrics

Both = list[tuple[str, Metrics, str]]


def model_pictures(metrics: Metrics, champion: Metrics | None) -> list[str]:
    """Calibration, ROC, precision-recall and the distribution of scores; none for a regression."""
    if metrics.task != "binary":
        return []
    both = _both(metrics, champion)
    return [_calibration(both), _roc(both), _precision_recall(both), _distribution(metrics)]


def training_pictures(curves: Mapping[str, Sequence[float]]) -> list[str]:
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


def days_picture(dates: Sequence[str], raw: Sequence[int], refused: Sequence[int]) -> str:
    """Raw and refused rows of each date, in the order of the dates."""
    top = max(raw, default=0) * 1.05 or 1.0
    chart = Chart((1, max(len(raw), 2)), (0, top), "date", "rows", x_names=dates)
    for counts, colour in ((raw, INK), (refused, SECOND)):
        steps = [(float(day), float(count)) for day, count in enumerate(counts, 1)]
        chart.area(steps if len(steps) > 1 else [*steps, (2.0, steps[0][1])], colour)
    return figure("Rows a date", chart, {"raw": INK, "refused": SECOND})


def drift_picture(dates: Sequence[str], drift: Mapping[str, Sequence[float]]) -> str:
    """The population stability index of each field, by date."""
    longest = max(len(line) for line in drift.values())
    highest = max((v for line in drift.values() for v in line if math.isfinite(v)), default=0.0)
    across, up = (1, max(longest, 2)), (0, max(highest * 1.1, 0.3))
    chart = Chart(across, up, "date", "PSI", x_names=dates)
    chart.line([(1, 0.2), (max(longest, 2), 0.2)], FAINT, 'stroke-dasharray="4 4"')
    colours = dict(zip(drift, (INK, SECOND, FAINT) * len(drift), strict=False))
    for name, line in drift.items():
        for day, value in enumerate(line, 1):
            if math.isfinite(value):
                chart.dot((day, value), 3, colours[name], f"{name}: {value:.3f}")
    return figure("Drift against the state", chart, colours)


def _both(metrics: Metrics, champion: Metrics | None) -> Both:
    """(name, metrics, colour) of the champion, when there is one, and of the model."""
    before = [("champion", champion, SECOND)] if champion else []
    return [*before, ("this model", metrics, INK)]


def _calibration(both: Both) -> str:
    chart = Chart((0, 1), (0, 1), "mean score", "share of positives")
    chart.line([(0, 0), (1, 1)], FAINT, 'stroke-dasharray="4 4"')
    for _, metrics, colour in both:
        points = [(b.mean_score, b.mean_label) for b in metrics.calibration]
        chart.line(points, colour)
        for b, point in zip(metrics.calibration, points, strict=True):
            note = f"{b.rows:,} rows: score {b.mean_score:.4f}, positives {b.mean_label:.4f}"
            chart.dot(point, 2 + 5 * math.sqrt(b.weight / metrics.weight), colour, note)
    return figure("Calibration", chart, {name: colour for name, _, colour in both})


def _roc(both: Both) -> str:
    chart = Chart((0, 1), (0, 1), "false positive rate", "true positive rate")
    chart.line([(0, 0), (1, 1)], FAINT, 'stroke-dasharray="4 4"')
    legend = {}
    for name, metrics, colour in both:
        chart.line(metrics.roc, colour)
        legend[f"{name} {metrics.values['auc']:.4f}"] = colour
    return figure("ROC, area", chart, legend)


def _precision_recall(both: Both) -> str:
    chart = Chart((0, 1), (0, 1), "recall", "precision")
    legend = {}
    for name, metrics, colour in both:
        chart.line(metrics.pr, colour)
        area = metrics.values.get("pr_auc", math.nan)
        legend[f"{name} {area:.4f}" if math.isfinite(area) else name] = colour
    return figure("Precision and recall, area", chart, legend)


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
    return figure("Scores by label", chart, {"label 0": SECOND, "label 1": INK})


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
    return figure(title, chart, colours)
