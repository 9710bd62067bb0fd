"""Pictures of filled tables."""

import pytest

from fastkd.plan.filled import Filled, FilledTable
from fastkd.plan.pictures import PICTURES, Drawing, least_costs
from fastkd.recipes.tables import TABLES
from fastkd.run.figures import Figure


def filled_as_printed(paper: str, key: str) -> FilledTable:
    """A table with what the paper prints in the place of ours."""
    found = FilledTable(TABLES[paper][key])
    for place in found.table.places:
        ours = None if place.printed is None else Figure(*place.printed)
        found.cells.append(Filled(place.row, place.column, place.stage, place.measure, place.printed, ours))
    return found


def test_ten_of_fourteen_pairs_cost_less_than_a_percent():
    """SimKD, section 4.3 and Figure 7, out of its own tables."""
    found = filled_as_printed("simkd", "fig7")
    costs = least_costs(found.cells, lambda cell: cell.printed.value)
    assert len(costs) == 14 and None not in costs.values()
    assert sum(cost < 1 for cost in costs.values()) == 10
    assert costs["resnet32x4/resnet8x4"] == 0.35 and costs["resnet32x4/MobileNetV2x2"] == -0.58


def test_a_pair_that_is_not_whole_has_no_least_cost():
    found = filled_as_printed("simkd", "fig7")
    lacking = next(cell for cell in found.cells if cell.row == "CRD")
    costs = least_costs(found.cells, lambda cell: None if cell is lacking else cell.printed.value)
    assert [pair for pair, cost in costs.items() if cost is None] == [lacking.column]


@pytest.mark.parametrize(
    "paper, key, words",
    [
        ("simkd", "fig4", "resnet32x4/resnet8x4: student classifier"),
        ("simkd", "fig7", "0 to 1 %"),
    ],
)
def test_pictures_of_numbers(paper, key, words, tmp_path):
    found = filled_as_printed(paper, key)
    (name,) = found.table.pictures
    drawing = Drawing(found, None, None, {}, None)
    assert words in PICTURES[name](drawing)


def test_every_picture_that_a_table_names_is_there():
    named = {name for tables in TABLES.values() for table in tables.values() for name in table.pictures}
    assert named <= set(PICTURES)
