"""Tables filled with made-up results, in every form that they are written in."""

import csv
import io

import pytest

from fastkd.plan import output
from fastkd.plan.cells import Cell, Plan, Seeds
from fastkd.plan.filled import FilledTable, filled
from fastkd.plan.measures import MEASURES
from fastkd.recipes import RECIPES
from fastkd.recipes.tables import Entry
from fastkd.recipes.tables.layout import Place, Printed, Summary, Table

SEEDS = Seeds(2, 1)


def entry(method: str) -> Entry:
    return Entry(paper="P", table="Table 1", recipe="digits", student="resnet8", method=method, figures={})


def result(node, top1: int, best: float) -> dict:
    count = {"top1": top1, "top5": 100, "samples": 100}
    branches = {f"branch {block}": count | {"top1": 10 + block} for block in (0, 1, 2)}
    stage = {"test": {node.own.name: count, **branches}, "best": {"epoch": 1, "top1": best}, "parameters": 1234}
    return {"stages": {node.own.name: stage}, "similarity": {node.own.name: {"kl": 0.5, "cka": 0.9, "agreement": 0.8}}}


@pytest.fixture
def table(tmp_path, monkeypatch) -> FilledTable:
    deviations = {"kd": ("the paper does not print α", "data elsewhere"), "kd+at": ("data elsewhere",)}
    cells = {}
    for method, words in deviations.items():
        recipe = RECIPES["digits"](method=method)
        cells[method] = Cell.of(method, recipe, SEEDS)
        object.__setattr__(cells[method].recipe, "deviations", words)
    plan = Plan(tmp_path, list(cells.values()))
    at = {"kd": 60, "kd+at": 70}

    def measured(node):
        seed = node.beside.seed
        return result(node, at.get(node.own.method, 90) + seed, 0.95) if node.own.name != "control" else None

    monkeypatch.setattr(plan, "result", measured)
    places = [Place("teacher", "pair", entry("kd"), "teacher", printed=Printed(91.0))]
    places += [Place("alone", "pair", entry("kd"), "control", printed=Printed(50.0))]
    places += [Place(method, "pair", entry(method), "student", printed=Printed(61.0, 0.3)) for method in at]
    places += [Place("kd", "best", entry("kd"), "student", "best", Printed(96.0))]
    summaries = (Summary("AVG", "row"), Summary("Best", "column", "best", printed={"pair": 71.0}))
    by_place = [(place, cells[place.entry.method]) for place in places]
    return filled(Table("P", "Table 1", tuple(places), summaries), plan, by_place)


def test_means_over_students_and_a_teacher_counted_once(table):
    (teacher,), (student,) = table.at("teacher", "pair"), table.at("kd", "pair")
    assert teacher.ours.mean == 90 and teacher.ours.std is None
    assert student.ours.mean == 60.5 and student.ours.values == (60.0, 61.0)
    assert table.at("alone", "pair")[0].ours is None, "it is not finished"


def test_summaries_are_of_what_is_there(table):
    assert table.at("Best", "pair")[0].ours.mean == 70.5 and table.at("Best", "pair")[0].printed.value == 71.0
    assert table.at("kd", "AVG")[0].ours.mean == pytest.approx((60.5 + 95) / 2)
    assert table.at("alone", "AVG")[0].ours is None


def test_choices_and_differences_are_told_apart(table):
    assert table.notes == ["choice: the paper does not print α", "differs: data elsewhere"]
    assert table.at("kd", "pair")[0].marks == (1, 2) and table.at("kd+at", "pair")[0].marks == (2,)
    assert table.common == {2}
    assert output.notes(table) == ["all figures  differs: data elsewhere", "[1] choice: the paper does not print α"]


def test_as_text(table):
    heads, rows = output.as_lines(table)
    assert heads == (
        "",
        "pair",
        "best",
        "AVG",
    )
    by_name = {name: cells for name, *cells in rows}
    assert by_name["kd"][0] == "60.50 ± 0.71 (61.00 ± 0.30) [1]"
    assert by_name["kd"][1] == "95.00 ± 0.00 last 60.50 ± 0.71 (96.00) [1]", "best, and what the last epoch gave"
    assert by_name["alone"][0] == "- (50.00) [1]"


def test_as_csv(table):
    rows = list(csv.DictReader(io.StringIO(output.as_csv(table, students=2, teachers=1))))
    (row,) = (row for row in rows if (row["row"], row["column"]) == ("kd", "pair"))
    assert float(row["ours"]) == 60.5 and float(row["printed"]) == 61.0 and row["students"] == "2"
    assert row["notes"] == "choice: the paper does not print α; differs: data elsewhere"
    assert len(rows) == len(table.cells)


def test_as_latex(table):
    written = output.as_latex(table)
    assert written.startswith(r"\begin{tabular}{lrrr}") and r"60.50 $\pm$ 0.71 (61.00 $\pm$ 0.30)" in written
    assert written.count(r"\\") == 1 + len(table.rows)


def test_as_html(table):
    written = output.as_html(table)
    assert written.count("<tr>") == 1 + len(table.rows) and "choice: the paper does not print α" in written


READ = {"nll": 0.5, "entropy": 0.5, "loss": 0.5, "ratio": 0.5, "own_ratio": 0.5, "cost": 0.5, "projector_share": 0.5}
READ |= {"top1": 50.0, "best": 60.0, "samples": 200, "means": [1.0, 2.0, 3.0, 4.0, 5.0], "train": {"kl": 0.5}}


@pytest.mark.parametrize("name", MEASURES)
def test_every_measure_is_read(name, tmp_path):
    node = Cell.of("kd", RECIPES["digits"](method="kd"), Seeds()).nodes[0]["student"]
    found = MEASURES[name].read({**result(node, 60, 0.95), "finding": READ}, "student")
    expected = {"top1": 60, "top5": 100, "best": 95, "kl": 0.5, "cka": 0.9, "agreement": 80, "parameters": 1234}
    expected |= {f"branch {block}": 10 + block for block in (0, 1, 2)}
    expected |= {"probe": 25, "probe best": 30, "at epoch": 50, "best beside": 60}
    expected |= {f"severity {level}": level for level in range(1, 6)}
    assert found == pytest.approx(expected.get(name, 0.5))
