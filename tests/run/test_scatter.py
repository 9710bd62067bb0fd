"""Clouds of points as SVG."""

from xml.etree import ElementTree

from fastkd.run.scatter import Cloud, scatter_chart, standalone


def test_points_lie_inside_at_one_scale():
    clouds = [Cloud("a & b", [(0, 0), (10, 5)], 0), Cloud("", [(10, -5)], 0, light=True)]
    tree = ElementTree.fromstring(standalone(scatter_chart("title", clouds)))
    svg = "{http://www.w3.org/2000/svg}"
    dots = [tuple(float(dot.get(axis)) for axis in ("cx", "cy")) for dot in tree.findall(f"{svg}g/{svg}circle")]
    (x0, y0), (x1, y1), (x2, y2) = dots
    assert x1 == x2 and abs((x1 - x0) - (y2 - y1)) < 0.2, "both ranges are ten long"
    assert y1 < y0 < y2 and all(0 <= x <= 400 and 26 <= y <= 426 for x, y in dots)
    shades = [group.get("fill-opacity") for group in tree.findall(f"{svg}g")]
    assert shades == ["1", "0.35"]
    assert [text.text for text in tree.findall(f"{svg}text")] == ["title", "a & b"]


def test_without_points_there_is_nothing():
    assert scatter_chart("title", [Cloud("a", [], 0)]) == ""
