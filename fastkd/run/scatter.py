"""Clouds of points as inline SVG, which is a file of its own, too."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from fastkd.run.charts import colour
from fastkd.run.page import NOTHING, Html, element

_SIDE, _EDGE, _TOP = 400, 10, 26
_LIGHT = 0.35
_KEYS, _KEY_HEIGHT = 4, 16
"""Names in a line of the legend."""


class Cloud(NamedTuple):
    name: str
    """It stands in the legend; "" where another cloud says what this one is."""
    points: Sequence[Sequence[float]]
    """(x, y) of each."""
    number: int
    """That of its colour, see `charts.colour`."""
    light: bool = False


def scatter_chart(title: str, clouds: Sequence[Cloud]) -> Html:
    """A <figure> with all points at one scale; coordinates have no meaning, and no axis. Empty without points."""
    xs, ys = ([float(point[axis]) for cloud in clouds for point in cloud.points] for axis in (0, 1))
    if not xs:
        return NOTHING
    left, top = min(xs), max(ys)
    scale = (_SIDE - 2 * _EDGE) / (max(max(xs) - left, top - min(ys)) or 1.0)

    def dot(point: Sequence[float]) -> Html:
        x, y = _EDGE + (point[0] - left) * scale, _TOP + _EDGE + (top - point[1]) * scale
        return element("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=1.6)

    parts = [element("text", title, x=8, y=16, class_="title")]
    parts += [element("g", *map(dot, cloud.points), **_look(cloud)) for cloud in clouds]
    named = [cloud for cloud in clouds if cloud.name]
    height = _TOP + _SIDE + _KEY_HEIGHT * -(-len(named) // _KEYS)
    size = f"0 0 {_SIDE} {height}"
    return element("figure", element("svg", *parts, *_keys(named), viewBox=size, role="img", aria_label=title))


def standalone(figure: Html) -> str:
    """The <svg> of a figure as a file of its own."""
    begin, end = figure.index("<svg"), figure.rindex("</svg>") + len("</svg>")
    how = 'xmlns="http://www.w3.org/2000/svg" font-family="sans-serif" font-size="12"'
    return figure[begin:end].replace("<svg", f"<svg {how}", 1) + "\n"


def _keys(clouds: Sequence[Cloud]) -> Iterator[Html]:
    for place, cloud in enumerate(clouds):
        x = _EDGE + (place % _KEYS) * (_SIDE - 2 * _EDGE) / _KEYS
        y = _TOP + _SIDE + _KEY_HEIGHT * (place // _KEYS)
        yield element("circle", cx=f"{x + 4:.1f}", cy=y, r=4, **_look(cloud))
        yield element("text", cloud.name, x=f"{x + 12:.1f}", y=y + 4)


def _look(cloud: Cloud) -> dict[str, object]:
    return {"fill": colour(cloud.number), "fill_opacity": _LIGHT if cloud.light else 1}
