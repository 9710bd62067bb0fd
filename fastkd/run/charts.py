"""Charts as inline SVG."""

import html
import math
from collections.abc import Sequence
from typing import NamedTuple

_COLOURS = ("#2563eb", "#d97706", "#059669", "#dc2626", "#7c3aed", "#0891b2", "#be185d", "#4d7c0f")
_WIDTH, _HEIGHT = 460, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 30, 34


class Line(NamedTuple):
    name: str
    points: Sequence[tuple[float, float]]
    """(x, y); values that are not finite are left out."""


def line_chart(title: str, x_label: str, lines: Sequence[Line]) -> str:
    """An <svg> element with its legend; the empty string where there is nothing to draw."""
    lines = [Line(line.name, [p for p in line.points if math.isfinite(p[1])]) for line in lines]
    lines = [line for line in lines if line.points]
    if not lines:
        return ""
    xs, ys = zip(*(point for line in lines for point in line.points), strict=True)
    x_low, x_high = float(min(xs)), float(max(xs))
    y_low, y_high = min(ys), max(ys)
    if 0 <= y_low < y_high / 2:
        y_low = 0.0
    x_ticks, y_ticks = _ticks(x_low, x_high, whole=True), _ticks(y_low, y_high)

    def place(x: float, y: float) -> tuple[float, float]:
        right = (x - x_low) / ((x_high - x_low) or 1)
        up = (y - y_low) / ((y_high - y_low) or 1)
        return _LEFT + right * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM)

    parts = [f'<text x="{_LEFT}" y="18" class="title">{html.escape(title)}</text>']
    for tick in y_ticks:
        y = place(x_low, tick)[1]
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in x_ticks:
        x = place(tick, y_low)[0]
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">{tick:g}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 3}" text-anchor="middle">{html.escape(x_label)}</text>')
    for number, line in enumerate(lines):
        colour = _COLOURS[number % len(_COLOURS)]
        points = " ".join("{:.1f},{:.1f}".format(*place(*point)) for point in line.points)
        parts.append(f'<polyline points="{points}" stroke="{colour}"/>')
        if len(line.points) == 1:
            x, y = place(*line.points[0])
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>')
    svg = f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">{"".join(parts)}</svg>'
    return f'<figure>{svg}<figcaption class="legend">{_legend([line.name for line in lines])}</figcaption></figure>'


def _ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """About five round numbers that lie in low … high."""
    span = (high - low) or abs(high) or 1.0
    step = 10 ** math.floor(math.log10(span / 4))
    step *= next((factor for factor in (1, 2, 5, 10) if span / (step * factor) <= 6), 10)
    if whole:
        step = max(1, round(step))
    first = math.ceil(low / step)
    ticks = [round(number * step, 10) for number in range(first, math.floor(high / step) + 1)]
    return [float(tick) for tick in ticks] or [low]


class Dot(NamedTuple):
    row: str
    series: str
    value: float
    error: float
    """Half the length of the bar through the dot."""


def dot_chart(title: str, dots: Sequence[Dot]) -> str:
    """A <figure> with a line for each row and in it a dot with its bar for each series; empty without dots.

    What is not finite has no place on it.
    """
    dots = [dot for dot in dots if math.isfinite(dot.value) and math.isfinite(dot.error)]
    if not dots:
        return ""
    rows, series = (list(dict.fromkeys(names)) for names in ([d.row for d in dots], [d.series for d in dots]))
    low, high = min(d.value - d.error for d in dots), max(d.value + d.error for d in dots)
    left, row_height = 92, 26
    bottom = _TOP + row_height * len(rows)

    def across(value: float) -> float:
        return left + (value - low) / ((high - low) or 1) * (_WIDTH - left - _RIGHT)

    parts = [f'<text x="{left}" y="18" class="title">{html.escape(title)}</text>']
    for tick in _ticks(low, high):
        x = across(tick)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{bottom}" class="grid"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{tick:g}</text>')
    for number, row in enumerate(rows):
        y = _TOP + row_height * (number + 0.5)
        parts.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{html.escape(row)}</text>')
    for dot in dots:
        place = series.index(dot.series)
        y = _TOP + row_height * (rows.index(dot.row) + (place + 1) / (len(series) + 1))
        colour, ends = _COLOURS[place % len(_COLOURS)], (across(dot.value - dot.error), across(dot.value + dot.error))
        parts.append(f'<line x1="{ends[0]:.1f}" x2="{ends[1]:.1f}" y1="{y:.1f}" y2="{y:.1f}" stroke="{colour}"/>')
        parts.append(f'<circle cx="{across(dot.value):.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>')
    svg = f'<svg viewBox="0 0 {_WIDTH} {bottom + 24}" role="img">{"".join(parts)}</svg>'
    return f'<figure>{svg}<figcaption class="legend">{_legend(series)}</figcaption></figure>'


def _legend(names: Sequence[str]) -> str:
    return "".join(
        f'<span><i style="background:{_COLOURS[number % len(_COLOURS)]}"></i>{html.escape(name)}</span>'
        for number, name in enumerate(names)
    )
