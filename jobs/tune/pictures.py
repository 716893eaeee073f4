"""The pictures of a study, as HTML figures that hold SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Any

from jobs.base.pages.chart import FAINT, INK, SECOND, Chart, figure, framed
from jobs.settings.tune import Choices, Range
from jobs.tune.samplers.space import Entries, as_stored, places
from jobs.tune.told import Told

_WIDTH, _HEIGHT, _SIDE, _TOP, _BOTTOM = 760, 270, 60, 34, 22
_MOST_LABELS = 8


def history_picture(told: Sequence[Told], metric: str, more: bool) -> str:
    """The value of each trial by its number, and the best so far."""
    ended = [(one.number, one.value, one) for one in told if one.value is not None]
    chart = Chart(_across(told), _span([value for _, value, _ in ended]), "trial", metric)
    best: list[tuple[float, float]] = []
    for number, value, one in ended:
        known = best[-1][1] if best else value
        top = max(known, value) if more else min(known, value)
        best += [(number, known), (number, top)]
        chart.dot((number, value), 3, INK, _note(one, f"{metric} {value:.6g}"))
    chart.line([*best, (len(told) - 1, best[-1][1])] if best else [], SECOND)
    for one in told:
        if one.stopped is not None:
            value = one.rungs[one.stopped]
            place = min(max(value, chart.y[0]), chart.y[1])
            said = f"stopped at {one.stopped:,} rows: {value:.6g}"
            chart.dot((one.number, place), 3, FAINT, _note(one, said))
        elif one.failed:
            chart.dot((one.number, chart.y[0]), 4, "var(--bad)", _note(one, one.failed))
    legend = {"trial": INK, "best so far": SECOND, "stopped": FAINT, "failed": "var(--bad)"}
    return figure("History", chart, legend)


def rungs_picture(told: Sequence[Told], metric: str) -> str:
    """The value of each trial over the rows that it had trained; empty where there are no rungs."""
    if not any(one.rungs for one in told):
        return ""
    lines = {one.number: _over_rows(one) for one in told}
    points = [point for line in lines.values() for point in line]
    most = max(rows for rows, _ in points)
    chart = Chart((0, most * 1.02), _span([value for _, value in points]), "rows", metric)
    for one in told:
        colour = INK if one.value is not None else FAINT
        for start, end in pairwise(lines[one.number]):
            chart.line([start, end], colour, 'stroke-opacity=".6"')
        for rows, value in lines[one.number]:
            chart.dot((rows, value), 2.5, colour, _note(one, f"{rows:,.0f} rows: {value:.6g}"))
    return figure("Rungs", chart, {"to its end": INK, "stopped": FAINT})


def parallel_picture(told: Sequence[Told], entries: Entries, metric: str, more: bool) -> str:
    """A line a trial through its values of the entries, to the metric; empty where all failed.

    A line passes by an entry that its trial has not.
    """
    ended = [(one.value, one) for one in told if one.value is not None]
    if not ended:
        return ""
    low, high = _span([value for value, _ in ended])
    # The best is drawn last, above the others.
    ended.sort(key=lambda pair: pair[0] if more else -pair[0])
    axes = _Axes(len(entries) + 1)
    parts = [axes.axis(number, name, entry) for number, (name, entry) in enumerate(entries.items())]
    parts.append(axes.line(len(entries), metric, f"{low:.4g}", f"{high:.4g}"))
    for rank, (value, one) in enumerate(ended, 1):
        up = dict(zip(entries, places(entries, as_stored(entries, one.params)), strict=True))
        ups = [(number, up[name]) for number, name in enumerate(entries) if name in one.params]
        ups.append((len(entries), (value - low) / (high - low)))
        best = rank == len(ended)
        opacity = 1 if best else 0.15 + 0.55 * rank / len(ended)
        note = _note(one, f"{metric} {value:.6g}")
        parts.append(axes.trial(ups, SECOND if best else INK, opacity, note))
    legend = {"best": SECOND, "others, the better the darker": INK}
    return framed("Settings of the trials", axes.svg(parts), legend)


@dataclass(frozen=True)
class _Axes:
    """Upright axes side by side, each from 0 to 1."""

    count: int

    def at(self, number: int, up: float) -> tuple[float, float]:
        across = number / max(1, self.count - 1)
        return _SIDE + across * (_WIDTH - 2 * _SIDE), _HEIGHT - _BOTTOM - up * (
            _HEIGHT - _TOP - _BOTTOM
        )

    def axis(self, number: int, name: str, entry: Range | Choices) -> str:
        """Of an entry: its ends, or its values where they are few."""
        values = entry.values()
        if values is None or len(values) > _MOST_LABELS:
            low, high = entry.ends()[0], entry.ends()[-1]
            return self.line(number, name, f"{low:g}", f"{high:g}")
        marks = [
            self._text(*self.at(number, (place + 0.5) / len(values)), _value(value), dx=5)
            for place, value in enumerate(values)
        ]
        return self.line(number, name) + "".join(marks)

    def line(self, number: int, name: str, low: str = "", high: str = "") -> str:
        (x, bottom), (_, top) = self.at(number, 0), self.at(number, 1)
        rule = f'<path class="rule" d="M{x:.1f} {top:.1f}V{bottom:.1f}"/>'
        # Long names of neighbours would run into each other.
        title = self._text(x, _TOP - 9 - 12 * (number % 2), name.removeprefix("train."), "middle")
        ends = self._text(x, bottom, low, dx=5) + self._text(x, top + 8, high, dx=5)
        return rule + title + ends

    def trial(
        self, ups: Sequence[tuple[int, float]], colour: str, opacity: float, note: str
    ) -> str:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (self.at(*up) for up in ups))
        return (
            f'<polyline points="{path}" stroke="{colour}" stroke-opacity="{opacity:.2f}">'
            f"<title>{escape(note)}</title></polyline>"
        )

    def svg(self, parts: Sequence[str]) -> str:
        return (
            f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" fill="none" stroke-width="1.5">'
            f"{''.join(parts)}</svg>"
        )

    @staticmethod
    def _text(x: float, y: float, text: str, anchor: str = "start", dx: float = 0) -> str:
        return f'<text x="{x + dx:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _over_rows(one: Told) -> list[tuple[float, float]]:
    """Rows and value at each rung, and at the end of a trial that came there."""
    points = [(float(rows), value) for rows, value in sorted(one.rungs.items())]
    if one.value is not None:
        points.append((float(one.rows), one.value))
    return points


def _across(told: Sequence[Told]) -> tuple[float, float]:
    return -0.5, max(2, len(told)) - 0.5


def _span(values: Sequence[float]) -> tuple[float, float]:
    """A little more than from the least to the most."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    margin = (high - low) * 0.06 or abs(high) * 0.05 or 0.5
    return low - margin, high + margin


def _note(one: Told, said: str) -> str:
    values = ", ".join(f"{name}={_value(value)}" for name, value in one.params.items())
    return f"trial {one.number}: {said} ({values})"


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
