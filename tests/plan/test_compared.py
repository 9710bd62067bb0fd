"""Differences within a table, on made-up figures."""

from fastkd.plan.compared import compared
from fastkd.plan.filled import Filled, FilledTable
from fastkd.recipes.tables.layout import Table
from fastkd.run.figures import mean_and_std


def table(*, is_compared: bool = True, seeds: int = 3) -> FilledTable:
    found = FilledTable(Table("P", "Table 1", (), compared=is_compared))
    figures = {
        ("alone", "pair, standard", "control"): 50.0,
        ("kd", "pair, standard", "student"): 60.0,
        ("kd", "pair, sftn", "student"): 60.5,
        ("teacher", "pair, standard", "teacher"): 70.0,
        ("teacher", "pair, sftn", "teacher"): 90.0,
    }
    for (row, column, stage), value in figures.items():
        ours = mean_and_std([value + step for step in range(seeds)])
        found.cells.append(Filled(row, column, stage, "top1", None, ours))
    return found


def test_differences_to_the_student_alone_and_between_teachers():
    found = compared(table())
    assert found.rows == [
        ("kd", "pair, standard", "without a teacher", "+10.00"),
        ("kd", "pair, sftn", "from a standard teacher", "≈ +0.50"),
        ("teacher", "pair, sftn", "from a standard teacher", "+20.00"),
    ]
    assert "two standard errors" in found.remark


def test_of_one_seed_nothing_is_called_noise():
    found = compared(table(seeds=1))
    assert not any("≈" in cell for row in found.rows for cell in row) and "single seeds" in found.remark


def test_tables_that_are_not_compared():
    assert compared(table(is_compared=False)) is None
    assert compared(FilledTable(Table("P", "Table 1", (), compared=True))) is None
