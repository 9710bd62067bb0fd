"""HTML: what is text stays text."""

import xml.etree.ElementTree as ET

import pytest

from fastkd.run.page import Html, details, element, join, page, swatch, table

EVIL = """<b>&"'</td></style>"""


class TestElements:
    def test_text_is_escaped_in_children_and_attributes(self):
        made = element("p", EVIL, title=EVIL)
        parsed = ET.fromstring(made)
        assert parsed.text == EVIL and parsed.get("title") == EVIL and len(parsed) == 0

    def test_html_is_left_alone_and_stays_html(self):
        assert element("p", element("b", "x")) == "<p><b>x</b></p>"
        assert isinstance(join(["a", Html("<i></i>")]), Html) and join(["<", Html("<i></i>")]) == "&lt;<i></i>"

    def test_what_is_made_of_html_by_other_means_is_text_again(self):
        assert element("p", Html("<b>") + "x") == "<p>&lt;b&gt;x</p>"

    def test_names_of_attributes(self):
        assert element("i", class_="a", aria_label="b", x=0, y="", z=None) == '<i class="a" aria-label="b" x="0"></i>'


class TestTables:
    def test_the_first_column_names_the_rows(self):
        parsed = ET.fromstring(table(("a", EVIL), [(EVIL, 2), ("x", Html("<b>3</b>"))], kind="numbers"))
        assert parsed.get("class") == "wide" and parsed.find("table").get("class") == "numbers"
        assert [["".join(cell.itertext()) for cell in row] for row in parsed.iter("tr")] == [
            ["a", EVIL],
            [EVIL, "2"],
            ["x", "3"],
        ]
        assert [cell.tag for cell in list(parsed.iter("tr"))[1]] == ["th", "td"]

    def test_without_rows(self):
        assert len(list(ET.fromstring(table(("a",), [])).iter("tr"))) == 1


@pytest.mark.parametrize("is_open", (True, False))
def test_details_are_open_or_not(is_open):
    made = details(EVIL, element("p", "<details>"), open_=is_open)
    assert made.startswith("<details open>") == is_open and made.count("<details") == 1


def test_a_swatch_has_its_colour():
    assert "background:#123456" in swatch("#123456")


def test_a_page_is_whole_and_fits_a_telephone_and_the_dark():
    made = page(EVIL, element("p", "x"), EVIL)
    assert made.startswith("<!doctype html>") and made.count("</style>") == 1 and "<b>" not in made
    assert 'name="viewport"' in made and "prefers-color-scheme: dark" in made
