"""Cells and their shared nodes, without a training."""

from dataclasses import replace

from fastkd.plan.cells import Cell, Plan, Seeds
from fastkd.recipes import RECIPES

ONE = Seeds()


def cells(*methods: str, seeds: Seeds = ONE) -> list[Cell]:
    return [Cell.of(method, RECIPES["digits"](method=method, teacher_training="standard"), seeds) for method in methods]


def test_pairs_of_seeds():
    assert list(Seeds(3, 1).pairs()) == [(0, 0), (1, 0), (2, 0)]
    assert list(Seeds(4, 2, first=5).pairs()) == [(5, 5), (6, 6), (7, 5), (8, 6)]
    assert Seeds(3, 1).words() == "3 students a cell from 1 teacher" and "2 teachers" in Seeds(4, 2).words()


def test_what_cells_share_is_there_once(tmp_path):
    plan = Plan(tmp_path, cells("kd", "kd+at", "kd+sp", seeds=Seeds(2, 1)))
    roles = [node.own.role for node in plan.nodes.values()]
    assert (roles.count("teacher"), roles.count("control"), roles.count("student")) == (1, 2, 6)
    before: set[str] = set()
    for digest, node in plan.nodes.items():
        assert before >= {one.node.digest for one in node.taught}
        before.add(digest)


def test_a_teacher_keeps_what_any_of_its_students_follows(tmp_path):
    plan = Plan(tmp_path, cells("kd", "rco"))
    (teacher,) = (node for node in plan.nodes.values() if node.own.role == "teacher")
    assert plan.keep(teacher) == (8, 15, 22)
    assert plan.folder(teacher).name.endswith("-8-15-22") and plan.recipe(teacher).keep_epochs == (8, 15, 22)
    assert Plan(tmp_path, cells("kd")).folder(teacher).name == plan.folder(teacher).name.removesuffix("-8-15-22")


def test_nothing_is_finished_before_it_is(tmp_path):
    plan = Plan(tmp_path, cells("kd"))
    ready = [node.own.name for node in plan.nodes.values() if plan.ready(node)]
    assert ready == ["teacher", "control"] and not any(map(plan.finished, plan.nodes.values()))


def test_a_cell_keeps_its_recipe_but_for_the_seeds():
    (cell,) = cells("kd", seeds=Seeds(2, 1, first=4))
    recipe = RECIPES["digits"](method="kd", teacher_training="standard")
    assert cell.recipe == replace(recipe, seed=4, seeds=2) and len(cell.nodes) == 2
