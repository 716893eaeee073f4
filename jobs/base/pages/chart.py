"""Charts as SVG text, in colours that the page's style sheet names."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

Point = tuple[float, float]

INK, SECOND, FAINT = "var(--ink)", "var(--second)", "var(--faint)"

WIDTH, HEIGHT = 360, 250
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 10, 38


@dataclass
class Chart:
    """An SVG chart in data coordinates; parts are drawn in the order in which they are added.

    Attributes:
        x_names: of 1, 2, ... on the x axis, where those are no numbers to a reader.
    """

    x: Point
    y: Point
    x_label: str
    y_label: str
    parts: list[str] = field(default_factory=list)
    x_names: Sequence[str] = ()

    def at(self, x: float, y: float) -> Point:
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        inner_width, inner_height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
        return LEFT + across * inner_width, HEIGHT - BOTTOM - up * inner_height

    def line(self, points: Sequence[Point], colour: str, style: str = "") -> None:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (self.at(*point) for point in points))
        self.parts.append(f'<polyline points="{path}" stroke="{colour}" {style}/>')

    def dot(self, point: Point, radius: float, colour: str, note: str) -> None:
        x, y = self.at(*point)
        self.parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{colour}">'
            f"<title>{escape(note)}</title></circle>"
        )

    def area(self, points: Sequence[Point], colour: str) -> None:
        corners = [(points[0][0], self.y[0]), *points, (points[-1][0], self.y[0])]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (self.at(*point) for point in corners))
        self.parts.append(
            f'<polygon points="{path}" fill="{colour}" fill-opacity=".25" stroke="{colour}"/>'
        )

    def svg(self) -> str:
        middle = LEFT + (WIDTH - LEFT - RIGHT) / 2
        labels = (
            f'<text x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">'
            f"{escape(self.x_label)}</text>"
            f'<text transform="translate(11,{TOP + (HEIGHT - TOP - BOTTOM) / 2}) rotate(-90)" '
            f'text-anchor="middle">{escape(self.y_label)}</text>'
        )
        return (
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" fill="none" stroke-width="2">'
            f"{self._grid()}{''.join(self.parts)}{labels}</svg>"
        )

    def _grid(self) -> str:
        parts = []
        for value in _ticks(*self.y):
            (x0, y), (x1, _) = self.at(self.x[0], value), self.at(self.x[1], value)
            parts.append(f'<path class="rule" d="M{x0:.1f} {y:.1f}H{x1:.1f}"/>')
            parts.append(
                f'<text x="{x0 - 5:.1f}" y="{y + 3.5:.1f}" text-anchor="end">{value:g}</text>'
            )
        for value, name in self._x_labels():
            x, y = self.at(value, self.y[0])
            # A long name at the right edge would be cut off.
            anchor = "end" if self.x_names and x > WIDTH - RIGHT - 30 else "middle"
            parts.append(
                f'<text x="{x:.1f}" y="{y + 14:.1f}" text-anchor="{anchor}">{escape(name)}</text>'
            )
        return "".join(parts)

    def _x_labels(self) -> list[tuple[float, str]]:
        """Where the x axis is labelled, and with what: the first name, one between, the last."""
        if not self.x_names:
            return [(value, f"{value:g}") for value in _ticks(*self.x)]
        last = len(self.x_names)
        return [(float(n), self.x_names[n - 1]) for n in sorted({1, (1 + last) // 2, last})]


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers within [low, high]."""
    rough = (high - low) / 5
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(s * magnitude for s in (1, 2, 5, 10) if s * magnitude >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    count = math.floor(high / step + 1e-9) - first + 1
    return [round((first + i) * step, 12) for i in range(count)]


def figure(title: str, chart: Chart, legend: Mapping[str, str] | None = None) -> str:
    """A chart with its caption, and the colours' names, as HTML."""
    return framed(title, chart.svg(), legend)


def framed(title: str, svg: str, legend: Mapping[str, str] | None = None) -> str:
    """The same of a drawing that is SVG already."""
    keys = "".join(
        f'<span><i style="background:{colour}"></i>{escape(name)}</span>'
        for name, colour in (legend or {}).items()
    )
    caption = f"<figcaption>{escape(title)}<span class='keys'>{keys}</span></figcaption>"
    return f"<figure>{caption}{svg}</figure>"
