"""Charts as SVG: they are well-formed, whatever they are given, and show each point where it belongs."""

import math
import random
import re
import xml.etree.ElementTree as ET

import pytest

from fastkd.run.charts import DASHED, Dot, Line, colour, dot_chart, line_chart


def parsed(chart):
    """A browser would mend what is not well-formed; this does not."""
    return ET.fromstring(chart)


def drawing(chart):
    """The chart without its legend, whose keys are small drawings."""
    return parsed(chart).find("svg")


def texts(chart):
    return [element.text for element in parsed(chart).iter("text")]


def legend(chart):
    """[(name with the last value, colour)]"""
    spans = parsed(chart).find("figcaption")
    marks = [next(iter(span.find("svg"))) for span in spans]
    return [("".join(span.itertext()), m.get("stroke") or m.get("fill")) for span, m in zip(spans, marks, strict=True)]


def points(chart):
    """Of every line, [(x, y)]."""
    lines = [element.get("points").split() for element in drawing(chart).iter("polyline")]
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
        assert len(set(strokes)) == 2 and legend(chart) == [("a 1", strokes[0]), ("b 5", strokes[1])]

    def test_a_line_may_have_its_own_colour_and_dash(self):
        chart = line_chart("loss", "epoch", [Line("a", [(1, 2.0), (2, 1.0)], "#123456", DASHED)])
        (line,) = drawing(chart).iter("polyline")
        assert (line.get("stroke"), line.get("stroke-dasharray")) == ("#123456", DASHED)
        assert legend(chart) == [("a 1", "#123456")] and chart.count(f'stroke-dasharray="{DASHED}"') == 2

    @pytest.mark.parametrize("value", (86.6518, 0.030025, -3.0, 0.0, 1e5))
    def test_one_value_stands_in_the_middle_between_round_numbers(self, value):
        chart = line_chart("loss", "epoch", [Line("a", [(1, value)])])
        (circle,) = drawing(chart).iter("circle")
        assert 150 < float(circle.get("cx")) < 260 and 90 < float(circle.get("cy")) < 140
        values, epochs = ticks(chart)
        assert epochs == [1] and len(values) >= 3 and all(len(f"{tick:g}") <= 7 for tick in values)

    def test_a_line_without_a_name_is_in_no_legend(self):
        chart = line_chart("loss", "epoch", [Line("a", [(1, 2.0), (2, 1.0)]), Line("", [(1, 1.0), (2, 2.0)])])
        assert len(points(chart)) == 2 and [name for name, _ in legend(chart)] == ["a 1"]

    def test_a_band_lies_around_its_line_and_inside_the_frame(self):
        band = [(1, 1.0, 3.0), (2, 0.5, 9.0)]
        chart = line_chart("loss", "epoch", [Line("a", [(1, 2.0), (2, 1.0)], band=band)])
        (shade,) = drawing(chart).iter("polygon")
        corners = [tuple(map(float, corner.split(","))) for corner in shade.get("points").split()]
        ((first, second),) = points(chart)
        assert [x for x, _ in corners] == [first[0], second[0], second[0], first[0]]
        assert corners[0][1] > first[1] > corners[3][1] and corners[1][1] > second[1] > corners[2][1]
        assert all(0 <= x <= 400 and 0 <= y <= 240 for x, y in corners)

    def test_a_band_of_one_epoch_or_without_numbers_is_none(self):
        for band in ([(1, 1.0, 3.0)], [(1, math.nan, 3.0), (2, 1.0, math.inf)]):
            assert "<polygon" not in line_chart("loss", "epoch", [Line("a", [(1, 2.0), (2, 1.0)], band=band)])

    def test_a_long_training_is_thinned_and_keeps_its_end(self):
        chart = line_chart("loss", "epoch", [Line("a", [(epoch, 1000 - epoch) for epoch in range(1000)])])
        (line,) = points(chart)
        assert 150 <= len(line) <= 200 and line[-1][0] == 388.0 and legend(chart)[0][0] == "a 1"

    def test_every_number_has_a_colour_of_its_own(self):
        assert len({colour(number) for number in range(40)}) == 40

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
        (circle,) = drawing(chart).iter("circle")
        assert 0 <= float(circle.get("cx")) <= 400 and 0 <= float(circle.get("cy")) <= 240

    def test_names_are_text_and_not_markup(self):
        chart = line_chart("<b>&", 'epoch "x"', [Line("</svg><script>", [(1, 2.0)])])
        assert texts(chart)[0] == "<b>&" and "<script>" not in chart
        assert legend(chart)[0][0] == "</svg><script> 2"

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
        circles = list(drawing(chart).iter("circle"))
        assert [text for text in texts(chart) if text in ("kd", "at")] == ["kd", "at"]
        assert len({circle.get("fill") for circle in circles}) == 2 and len({c.get("cy") for c in circles}) == 4

    def test_the_bar_goes_through_the_dot_as_far_as_its_error(self):
        chart = dot_chart("accuracy", [Dot("kd", "a", 2.0, 1.0), Dot("at", "a", 5.0, 0.0)])
        bars = [(float(e.get("x1")), float(e.get("x2"))) for e in drawing(chart).iter("line") if e.get("stroke")]
        centres = [float(circle.get("cx")) for circle in drawing(chart).iter("circle")]
        assert centres[0] == pytest.approx(sum(bars[0]) / 2, abs=0.1) and bars[0][0] < bars[0][1]
        assert bars[1][0] == bars[1][1] == centres[1]
        per_unit = (centres[1] - centres[0]) / 3
        assert bars[0][1] - bars[0][0] == pytest.approx(2 * per_unit, abs=0.2)

    def test_one_dot_without_an_error_is_drawn(self):
        (circle,) = drawing(dot_chart("accuracy", [Dot("kd", "a", 96.5, 0.0)])).iter("circle")
        assert 0 <= float(circle.get("cx")) <= 400

    def test_without_dots_there_is_no_chart(self):
        assert dot_chart("accuracy", []) == ""

    @pytest.mark.parametrize("value", (float("nan"), float("inf"), float("-inf")))
    def test_what_is_not_finite_is_left_out(self, value):
        usual, odd = Dot("kd", "a", 2.0, 1.0), [Dot("at", "a", value, 0.0), Dot("at", "b", 1.0, value)]
        assert dot_chart("accuracy", odd) == ""
        assert dot_chart("accuracy", [usual, *odd]) == dot_chart("accuracy", [usual])

    def test_names_are_text_and_not_markup(self):
        chart = dot_chart("<i>", [Dot("a&b", "<u>", 1.0, 0.0)])
        assert "a&b" in texts(chart) and "<u>" not in chart and "<i>" not in chart

    def test_a_dot_may_have_its_own_colour_and_be_hollow(self):
        chart = dot_chart("x", [Dot("a", "s", 1.0, 0.0, "#111111"), Dot("b", "s", 2.0, 0.0, "#222222", hollow=True)])
        full, hollow = drawing(chart).iter("circle")
        assert full.get("fill") == "#111111" and (hollow.get("fill"), hollow.get("stroke")) == (None, "#222222")
        assert legend(chart)[0][1] not in ("#111111", "#222222"), "the series has both"

    def test_a_long_name_is_shortened_and_leaves_room(self):
        chart = dot_chart("x", [Dot("long " * 30, "s", 1.0, 0.0), Dot("b", "s", 2.0, 0.5)])
        assert any(text.endswith("…") for text in texts(chart))
        assert all(200 <= float(circle.get("cx")) <= 400 for circle in drawing(chart).iter("circle"))

    @pytest.mark.parametrize("bad", (math.nan, math.inf))
    def test_dots_that_are_not_finite_are_left_out(self, bad):
        assert dot_chart("x", [Dot("a", "s", bad, 0.0), Dot("b", "s", 1.0, bad)]) == ""

    def test_many_rows_make_it_higher(self):
        def height(rows):
            svg = parsed(dot_chart("accuracy", [Dot(f"{row}", "a", row, 0.0) for row in range(rows)])).find("svg")
            return float(svg.get("viewBox").split()[3])

        assert height(30) - height(29) == height(2) - height(1) > 10


EXTREME = (0.0, 5e-324, 1e-310, 1e-99, 1e-9, 1.0, -1.0, 3, 1e9, 10**15, 1e99, -1e99, 1e300, -1e308, math.inf, math.nan)


def test_no_number_that_a_file_may_hold_breaks_a_chart():
    """Three hundred charts out of extremes: each is well-formed and nothing in it stands outside of the numbers."""
    draw = random.Random(0)
    for _ in range(300):
        points = [(draw.choice(EXTREME), draw.choice(EXTREME)) for _ in range(draw.randrange(6))]
        band = [(x, draw.choice(EXTREME), draw.choice(EXTREME)) for x, _ in points]
        dots = [Dot(f"{place}", "s", y, abs(draw.choice(EXTREME))) for place, (_, y) in enumerate(points)]
        for chart in (line_chart("loss", "epoch", [Line("a", points, band=band)]), dot_chart("accuracy", dots)):
            coordinates = re.findall(r'(?:points|cx|cy|x1|y1)="(.*?)"', chart)
            assert not chart or parsed(chart) is not None
            assert all(math.isfinite(float(number)) for text in coordinates for number in re.split("[, ]", text))
