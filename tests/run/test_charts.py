"""Charts as SVG: they are well-formed, whatever they are given, and show each point where it belongs."""

import math
import xml.etree.ElementTree as ET

import pytest

from fastkd.run.charts import Dot, Line, dot_chart, line_chart


def parsed(chart):
    """A browser would mend what is not well-formed; this does not."""
    return ET.fromstring(chart)


def texts(chart):
    return [element.text for element in parsed(chart).iter("text")]


def points(chart):
    """Of every line, [(x, y)]."""
    lines = [element.get("points").split() for element in parsed(chart).iter("polyline")]
    return [[tuple(map(float, point.split(","))) for point in line] for line in lines]


def ticks(chart):
    """The numbers along the value axis, and those along the epochs' axis."""
    values, epochs = [], []
    for element in parsed(chart).iter("text"):
        if element.get("class") != "title" and element.text != "epoch":
            (values if element.get("text-anchor") == "end" else epochs).append(float(element.text))
    return values, epochs


class TestLines:
    def test_higher_values_are_higher_and_later_ones_further_right(self):
        ((first, second, third),) = points(line_chart("loss", "epoch", [Line("a", [(1, 2.0), (2, 1.0), (3, 3.0)])]))
        assert first[0] < second[0] < third[0] and third[1] < first[1] < second[1]

    def test_lines_share_their_axes_and_each_has_its_own_colour(self):
        chart = line_chart("loss", "epoch", [Line("a", [(1, 2.0), (2, 1.0)]), Line("b", [(2, 1.0), (4, 5.0)])])
        one, other = points(chart)
        assert one[1] == other[0]
        strokes = [element.get("stroke") for element in parsed(chart).iter("polyline")]
        legend = [element.get("style").partition(":")[2] for element in parsed(chart).iter("i")]
        assert len(set(strokes)) == 2 and legend == strokes

    def test_more_lines_than_colours_are_drawn_all_the_same(self):
        assert len(points(line_chart("loss", "epoch", [Line(f"{n}", [(1, n), (2, n)]) for n in range(20)]))) == 20

    @pytest.mark.parametrize("lines", ([], [Line("a", [])], [Line("a", [(1, math.nan), (2, math.inf)])]))
    def test_where_there_is_nothing_to_draw_there_is_no_chart(self, lines):
        assert line_chart("loss", "epoch", lines) == ""

    @pytest.mark.parametrize("bad", (math.nan, math.inf, -math.inf))
    def test_values_that_are_not_finite_are_left_out(self, bad):
        whole = line_chart("loss", "epoch", [Line("a", [(1, 2.0), (3, 4.0)])])
        assert line_chart("loss", "epoch", [Line("a", [(1, 2.0), (2, bad), (3, 4.0)]), Line("b", [(1, bad)])]) == whole

    @pytest.mark.parametrize("value", (0.0, 3.7, -3.0, 1e-6, 1e6))
    def test_one_point_is_a_dot_inside_the_frame(self, value):
        chart = line_chart("loss", "epoch", [Line("a", [(1, value)])])
        (circle,) = parsed(chart).iter("circle")
        assert 0 <= float(circle.get("cx")) <= 460 and 0 <= float(circle.get("cy")) <= 260

    def test_names_are_text_and_not_markup(self):
        chart = line_chart("<b>&", 'epoch "x"', [Line("</svg><script>", [(1, 2.0)])])
        assert texts(chart)[0] == "<b>&" and "<script>" not in chart
        assert "".join(parsed(chart).find("figcaption").itertext()) == "</svg><script>"

    @pytest.mark.parametrize("low, high", [(0, 1), (0, 100), (0.001, 0.0013), (-5, 5), (1e-5, 3e-5), (99.2, 99.9)])
    def test_values_have_some_round_ticks_inside_the_frame(self, low, high):
        values, epochs = ticks(line_chart("loss", "epoch", [Line("a", [(1, low), (2, high)])]))
        assert epochs == [1, 2], "there is no epoch in between"
        assert 3 <= len(values) <= 8 and values == sorted(set(values))
        assert min(0, low) <= values[0] and values[-1] <= high

    @pytest.mark.parametrize("epochs", (2, 3, 10, 37, 240))
    def test_epochs_are_whole(self, epochs):
        chart = line_chart("loss", "epoch", [Line("a", [(epoch, 1.0) for epoch in range(1, epochs + 1)])])
        _, shown = ticks(chart)
        assert 2 <= len(shown) <= 7 and all(tick.is_integer() and 1 <= tick <= epochs for tick in shown)

    def test_losses_that_begin_near_zero_begin_at_zero(self):
        def lowest(low):
            return ticks(line_chart("loss", "epoch", [Line("a", [(1, low), (2, 1.0)])]))[0][0]

        assert lowest(0.3) == 0 and lowest(0.7) == 0.7


class TestDots:
    def test_a_row_is_a_line_and_a_series_a_colour(self):
        dots = [Dot(row, series, 1.0, 0.5) for row in ("kd", "at") for series in ("standard", "sftn")]
        chart = dot_chart("accuracy", dots)
        circles = list(parsed(chart).iter("circle"))
        assert [text for text in texts(chart) if text in ("kd", "at")] == ["kd", "at"]
        assert len({circle.get("fill") for circle in circles}) == 2 and len({c.get("cy") for c in circles}) == 4

    def test_the_bar_goes_through_the_dot_as_far_as_its_error(self):
        chart = dot_chart("accuracy", [Dot("kd", "a", 2.0, 1.0), Dot("at", "a", 5.0, 0.0)])
        bars = [(float(e.get("x1")), float(e.get("x2"))) for e in parsed(chart).iter("line") if e.get("stroke")]
        centres = [float(circle.get("cx")) for circle in parsed(chart).iter("circle")]
        assert centres[0] == pytest.approx(sum(bars[0]) / 2, abs=0.1) and bars[0][0] < bars[0][1]
        assert bars[1][0] == bars[1][1] == centres[1]
        per_unit = (centres[1] - centres[0]) / 3
        assert bars[0][1] - bars[0][0] == pytest.approx(2 * per_unit, abs=0.2)

    def test_one_dot_without_an_error_is_drawn(self):
        (circle,) = parsed(dot_chart("accuracy", [Dot("kd", "a", 96.5, 0.0)])).iter("circle")
        assert 0 <= float(circle.get("cx")) <= 460

    def test_without_dots_there_is_no_chart(self):
        assert dot_chart("accuracy", []) == ""

    def test_names_are_text_and_not_markup(self):
        chart = dot_chart("<i>", [Dot("a&b", "<u>", 1.0, 0.0)])
        assert "a&b" in texts(chart) and "<u>" not in chart and "<i>" not in chart.replace("<i style", "")

    def test_many_rows_make_it_higher(self):
        def height(rows):
            svg = parsed(dot_chart("accuracy", [Dot(f"{row}", "a", row, 0.0) for row in range(rows)])).find("svg")
            return float(svg.get("viewBox").split()[3])

        assert height(30) - height(29) == height(2) - height(1) > 10
