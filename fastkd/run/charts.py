"""Charts as inline SVG."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from fastkd.run.page import NOTHING, Html, element, join

_COLOURS = (
    "#3b82f6",
    "#ea7317",
    "#16a34a",
    "#a855f7",
    "#e11d48",
    "#0891b2",
    "#a16207",
    "#db2777",
    "#65a30d",
    "#64748b",
)
"""Each is told from the others, and from a white and a black page."""
DASHED, DOTTED = "6 4", "1.5 3"
_WIDTH, _HEIGHT = 400, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 12, 30, 36
_MOST_POINTS, _MOST = 200, 1e100


def colour(number: int) -> str:
    """The colour of the run, or of the network, with that number; there is one for every number."""
    if number < len(_COLOURS):
        return _COLOURS[number]
    return f"hsl({number * 137.5 % 360:.0f} 60% 50%)"


class Line(NamedTuple):
    name: str
    """It stands in the legend; "" where another line says what this one is."""
    points: Sequence[tuple[float, float]]
    """(x, y); values that are not finite are left out."""
    colour: str = ""
    """By default that of its place among the lines."""
    dash: str = ""
    """DASHED or DOTTED; by default the line is whole."""
    band: Sequence[tuple[float, float, float]] = ()
    """(x, lowest, highest): a shade behind the line."""


def line_chart(title: str, x_label: str, lines: Sequence[Line]) -> Html:
    """A <figure> with an <svg> and its legend; empty where there is nothing to draw."""
    lines = [_drawable(line, number) for number, line in enumerate(lines)]
    lines = [line for line in lines if line.points]
    if not lines:
        return NOTHING
    xs = [float(x) for line in lines for x, _ in line.points]
    ys = [
        float(y) for line in lines for y in (*(y for _, y in line.points), *(y for _, *ends in line.band for y in ends))
    ]
    (x_low, x_high), (y_low, y_high) = _widened(min(xs), max(xs), 0.5), _widened(min(ys), max(ys))
    if 0 <= y_low < y_high / 2:
        y_low = 0.0

    def place(x: float, y: float) -> tuple[float, float]:
        right = (x - x_low) / ((x_high - x_low) or 1)
        up = (y - y_low) / ((y_high - y_low) or 1)
        return _LEFT + right * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM)

    parts = [element("text", title, x=8, y=16, class_="title")]
    for tick in _ticks(y_low, y_high):
        y = f"{place(x_low, tick)[1]:.1f}"
        parts.append(element("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y, class_="grid"))
        parts.append(element("text", f"{tick:g}", x=_LEFT - 6, y=y, dy="0.35em", text_anchor="end"))
    for tick in _ticks(x_low, x_high, whole=True):
        x = f"{place(tick, y_low)[0]:.1f}"
        parts.append(element("text", f"{tick:g}", x=x, y=_HEIGHT - _BOTTOM + 16, text_anchor="middle"))
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(element("text", x_label, x=middle, y=_HEIGHT - 4, text_anchor="middle"))
    for line in lines:
        if len(line.band) > 1:
            edge = [(x, low) for x, low, _ in line.band] + [(x, high) for x, _, high in reversed(line.band)]
            corners = " ".join("{:.1f},{:.1f}".format(*place(*point)) for point in edge)
            parts.append(element("polygon", points=corners, fill=line.colour, class_="band"))
    for line in lines:
        points = " ".join("{:.1f},{:.1f}".format(*place(*point)) for point in line.points)
        parts.append(element("polyline", points=points, stroke=line.colour, stroke_dasharray=line.dash))
        if len(line.points) == 1:
            x, y = place(*line.points[0])
            parts.append(element("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=3, fill=line.colour))
    keys = [
        join((_stroke(line), f"{line.name} ", element("b", f"{line.points[-1][1]:.4g}"))) for line in lines if line.name
    ]
    return _figure(title, parts, _HEIGHT, keys)


class Dot(NamedTuple):
    row: str
    series: str
    value: float
    error: float
    """Half the length of the bar through the dot; 0 where it is unknown."""
    colour: str = ""
    """By default that of its series' place."""
    hollow: bool = False


def dot_chart(title: str, dots: Sequence[Dot]) -> Html:
    """A <figure> with a line for each row and in it a dot with its bar for each series; empty without dots.

    What is not finite has no place on it.
    """
    dots = [dot._replace(value=_flat(dot.value), error=_flat(dot.error)) for dot in dots if _is_drawable(*dot[2:4])]
    if not dots:
        return NOTHING
    rows, series = (list(dict.fromkeys(names)) for names in ([d.row for d in dots], [d.series for d in dots]))
    dots = [dot._replace(colour=dot.colour or colour(series.index(dot.series))) for dot in dots]
    low, high = _widened(min(dot.value - dot.error for dot in dots), max(dot.value + dot.error for dot in dots))
    left = min(_WIDTH / 2, 16 + 6.5 * max(len(row) for row in rows))
    row_height = max(26, 13 * len(series))
    bottom = _TOP + row_height * len(rows)

    def across(value: float) -> float:
        return left + 6 + (value - low) / ((high - low) or 1) * (_WIDTH - left - 6 - _RIGHT)

    parts = [element("text", title, x=8, y=16, class_="title")]
    for tick in _ticks(low, high):
        x = f"{across(tick):.1f}"
        parts.append(element("line", x1=x, x2=x, y1=_TOP, y2=bottom, class_="grid"))
        parts.append(element("text", f"{tick:g}", x=x, y=bottom + 16, text_anchor="middle"))
    for number, row in enumerate(rows):
        y = f"{_TOP + row_height * (number + 0.5):.1f}"
        parts.append(element("text", _shortened(row, left), x=left - 8, y=y, dy="0.35em", text_anchor="end"))
    for dot in dots:
        y = f"{_TOP + row_height * (rows.index(dot.row) + (series.index(dot.series) + 1) / (len(series) + 1)):.1f}"
        ends = (f"{across(dot.value - dot.error):.1f}", f"{across(dot.value + dot.error):.1f}")
        parts.append(element("line", x1=ends[0], x2=ends[1], y1=y, y2=y, stroke=dot.colour))
        look = {"stroke": dot.colour, "class_": "hollow"} if dot.hollow else {"fill": dot.colour}
        parts.append(element("circle", cx=f"{across(dot.value):.1f}", cy=y, r=4, **look))
    return _figure(title, parts, bottom + 24, [join((_mark(name, dots), name)) for name in series])


def as_picture(figure: Html) -> str:
    """A figure's picture as an SVG file of its own, whose legend is what the report has beside it."""
    start, end = figure.index("<svg "), figure.index("</svg>")
    style = element("style", Html(_PICTURE_STYLE))
    inside = figure[start + len("<svg ") : end]
    opened, _, rest = inside.partition(">")
    return f'<svg xmlns="http://www.w3.org/2000/svg" {opened}>{style}{rest}</svg>\n'


_PICTURE_STYLE = (
    "text { font: 11px sans-serif; fill: #374151 } .title { font-weight: bold } .grid { stroke: #e5e7eb } "
    "line { stroke-width: 2 } .grid { stroke-width: 1 } polyline { fill: none; stroke-width: 2 } "
    ".band { opacity: .15 } .hollow { fill: white; stroke-width: 2 }"
)


def _drawable(line: Line, number: int) -> Line:
    points = [(_flat(x), _flat(y)) for x, y in line.points if _is_drawable(x, y)]
    band = [(_flat(x), _flat(low), _flat(high)) for x, low, high in line.band if _is_drawable(x, low, high)]
    return line._replace(points=_thinned(points), band=_thinned(band), colour=line.colour or colour(number))


def _is_drawable(*values: float) -> bool:
    """Whether they are numbers of which differences and ratios are numbers, too."""
    return all(abs(value) < _MOST for value in values)


def _widened(low: float, high: float, by: float = 0.0) -> tuple[float, float]:
    """The range, or one around its only value."""
    by = by or abs(low) / 10 or 1.0
    return (low, high) if high > low else (low - by, high + by)


def _flat(value: float) -> float:
    return value if abs(value) > 1 / _MOST else 0.0


def _thinned(points: Sequence) -> Sequence:
    """At most so many points as there are places for; the last is kept."""
    step = math.ceil(len(points) / _MOST_POINTS)
    return points[::-1][::step][::-1] if step > 1 else points


def _figure(title: str, parts: Sequence[Html], height: float, keys: Sequence[Html]) -> Html:
    svg = element("svg", *parts, viewBox=f"0 0 {_WIDTH} {height}", role="img", aria_label=title)
    return element("figure", svg, element("figcaption", *(element("span", key) for key in keys), class_="legend"))


def _key(line: Line) -> Html:
    """What the line looks like, its name, and its last value."""
    return join((_stroke(line), f"{line.name} ", element("b", f"{line.points[-1][1]:.4g}")))


def _stroke(line: Line) -> Html:
    drawn = element("line", x1=0, x2=26, y1=5, y2=5, stroke=line.colour, stroke_width=3, stroke_dasharray=line.dash)
    return element("svg", drawn, viewBox="0 0 26 10", aria_hidden="true")


def _mark(name: str, dots: Sequence[Dot]) -> Html:
    """What the dots of a series look like; of several colours in grey."""
    own = [dot for dot in dots if dot.series == name]
    shade = own[0].colour if len({dot.colour for dot in own}) == 1 else "#64748b"
    look = {"stroke": shade, "class_": "hollow"} if own[0].hollow else {"fill": shade}
    return element("svg", element("circle", cx=13, cy=5, r=4, **look), viewBox="0 0 26 10", aria_hidden="true")


def _shortened(text: str, width: float) -> str:
    room = int(width / 6.5) - 1
    return text if len(text) <= room else text[: room - 1] + "…"


def _ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """About five round numbers that lie in low … high."""
    span = (high - low) or abs(high) or 1.0
    step = 10 ** math.floor(math.log10(span / 4))
    step *= next((factor for factor in (1, 2, 5, 10) if span / (step * factor) <= 6), 10)
    if whole:
        step = max(1, round(step))
    first = math.ceil(low / step)
    ticks = [
        round(number * step, 10) if step > 1e-9 else number * step
        for number in range(first, math.floor(high / step) + 1)
    ]
    return [float(tick) for tick in ticks] or [low]
