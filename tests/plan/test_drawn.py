"""Charts of tables with made-up figures."""

import json

import pytest

from fastkd.plan.cells import Cell, Plan, Seeds
from fastkd.plan.drawn import drawn
from fastkd.plan.filled import Filled, FilledTable
from fastkd.recipes import RECIPES
from fastkd.recipes.tables import Entry
from fastkd.recipes.tables.layout import Chart, Place, Printed, Table
from fastkd.run.figures import mean_and_std

ENTRY = Entry(
    paper="P", table="Figure 1", recipe="digits", teacher="resnet8", student="resnet8", method="kd", figures={}
)


def figure(value: float):
    return mean_and_std([value])


def test_dots_are_ours_and_hollow_what_is_printed(tmp_path):
    found = FilledTable(Table("P", "Figure 1", (), chart=Chart("dots")))
    found.cells = [Filled("kd", "pair", "student", "top1", Printed(61.0, 0.3), figure(60.0))]
    (chart,) = drawn(found, Plan(tmp_path, []), []).charts
    assert chart.count("<circle") == 2 + 2 and 'class="hollow"' in chart and "kd, printed" in chart


def test_students_over_their_teachers_accuracy(tmp_path):
    found = FilledTable(Table("P", "Figure 2", (), chart=Chart("against")))
    for column, teacher, student in (("epoch 1", 15.0, 70.0), ("epoch 2", 40.0, 71.0)):
        found.cells.append(Filled("A: teacher", column, "teacher", "top1", None, figure(teacher)))
        found.cells.append(Filled("A", column, "student", "best", None, figure(student)))
    found.cells.append(Filled("alone", "epoch 2", "control", "best", None, figure(68.0)))
    (chart,) = drawn(found, Plan(tmp_path, []), []).charts
    assert chart.count("<polyline") == 2 and "without a teacher" in chart and "accuracy of the teacher" in chart


@pytest.mark.parametrize("term, values", (("", ["25.0", "75.0"]), ("kl", ["2.0", "1.0"])))
def test_curves_along_the_epochs(term, values, tmp_path, monkeypatch):
    cell = Cell.of("it", RECIPES["digits"](), Seeds())
    plan = Plan(tmp_path, [cell])
    monkeypatch.setattr(plan, "finished", lambda node: True)
    folder = plan.folder(cell.nodes[0]["student"])
    folder.mkdir(parents=True)
    records = []
    for epoch, hits, kl in ((1, 1, 2.0), (2, 3, 1.0)):
        test = {"student": {"top1": hits, "top5": 4, "samples": 4}}
        records.append(
            {"stage": "student", "step": epoch, "epoch": epoch, "train": {"loss": kl, "kl": kl}, "test": test}
        )
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    place = Place("kd", "pair", ENTRY, "student")
    found = drawn(FilledTable(Table("P", "Figure 3", (place,), chart=Chart("curves", term))), plan, [(place, cell)])
    assert [row[3] for row in found.rows] == values and [row[2] for row in found.rows] == ["1", "2"]
    assert "<polyline" in found.charts[0] and found.heads[3] == (term or "accuracy")


def test_a_table_without_a_chart(tmp_path):
    assert drawn(FilledTable(Table("P", "Table 1", ())), Plan(tmp_path, []), []).charts == []
