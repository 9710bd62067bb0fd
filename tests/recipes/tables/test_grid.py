"""Tables as text."""

import pytest

from fastkd.recipes.recipe import Published
from fastkd.recipes.tables.grid import figure, read_grid

GRID = """
  wrn_40_2/wrn_16_2  vgg13/vgg8

  student w/o KD     73.41         -
  KD                 75.46±0.23    74.52
"""


def test_columns_and_rows_may_have_single_spaces_in_their_names():
    grid = read_grid(GRID)
    assert grid.columns == ("wrn_40_2/wrn_16_2", "vgg13/vgg8")
    assert grid.rows == {"student w/o KD": ("73.41", "-"), "KD": ("75.46±0.23", "74.52")}


def test_rows_keep_their_order():
    assert list(read_grid("a\nz  1\nb  2\n").rows) == ["z", "b"]


@pytest.mark.parametrize("row", ("row  1.0", "row  1.0  2.0  3.0", "row"))
def test_a_row_with_a_missing_or_a_spare_cell_is_refused(row):
    with pytest.raises(AssertionError, match="2 cells were expected"):
        read_grid(f"a  b\n{row}")


def test_a_row_that_stands_twice_is_refused():
    """The second would replace the first without a word."""
    with pytest.raises(AssertionError, match="a row stands twice"):
        read_grid("a\nKD  1.0\nKD  2.0")


def test_a_table_without_rows_has_its_columns():
    assert read_grid("a  b") == (("a", "b"), {})


@pytest.mark.parametrize(
    "cell, expected",
    [
        ("75.46", Published(top1=75.46, source="Table 1")),
        ("75.46±0.23", Published(top1=75.46, std=0.23, source="Table 1")),
        ("75.46±0.00", Published(top1=75.46, std=0.0, source="Table 1")),
    ],
)
def test_a_figure_has_a_deviation_where_one_is_printed(cell, expected):
    assert figure(cell, "Table 1") == expected


@pytest.mark.parametrize("cell", ("-", "", "75.46 (+1.2)"))
def test_a_cell_that_is_no_figure_is_refused(cell):
    with pytest.raises(ValueError):
        figure(cell, "Table 1")
