"""What a training's digest depends on, and what it does not."""

from dataclasses import replace

import pytest

from fastkd.plan import versions
from fastkd.plan.nodes import Node, nodes_of
from fastkd.recipes import RECIPES
from fastkd.recipes.recipe import Recipe, StageRecipe


def nodes(recipe: Recipe, student: int = 0, teacher: int = 0) -> dict[str, Node]:
    return nodes_of(recipe, student_seed=student, teacher_seed=teacher)


def recipe(method: str = "kd", **chosen) -> Recipe:
    return RECIPES["digits"](method=method, **chosen)


def test_teacher_and_control_are_the_same_whatever_the_method():
    one, other = nodes(recipe("kd")), nodes(recipe("kd+at"))
    assert one.keys() == {"teacher", "student", "control"}
    assert one["teacher"].digest == other["teacher"].digest and one["control"].digest == other["control"].digest
    assert one["student"].digest != other["student"].digest


def test_the_teacher_of_one_kind_is_not_that_of_another():
    assert nodes(recipe())["teacher"].digest != nodes(recipe(teacher_training="standard"))["teacher"].digest


@pytest.mark.parametrize(
    "change",
    [
        {"data": "digits:elsewhere"},
        {"eval_every": 7},
        {"threads": 3},
        {"seeds": 9},
        {"deviations": ("a word",)},
        {"keep_epochs": (1,)},
        {"name": "another"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_no_number_depends_on(change):
    plain, changed = nodes(recipe()), nodes(replace(recipe(), **change))
    assert {name: node.digest for name, node in plain.items()} == {name: node.digest for name, node in changed.items()}


@pytest.mark.parametrize("change", [{"image_size": 10}, {"limit_train": 100}, {"data_seed": 5}], ids=str)
def test_what_every_number_depends_on(change):
    plain, changed = nodes(recipe()), nodes(replace(recipe(), **change))
    assert not {node.digest for node in plain.values()} & {node.digest for node in changed.values()}


def test_seeds_of_students_and_teachers():
    first, second = nodes(recipe(), 0, 0), nodes(recipe(), 1, 0)
    assert first["teacher"].digest == second["teacher"].digest, "the teacher has a seed of its own"
    assert first["student"].digest != second["student"].digest
    other = nodes(recipe(), 0, 1)
    assert other["teacher"].digest != first["teacher"].digest
    assert other["student"].digest != first["student"].digest, "its teacher is another one"
    assert other["control"].digest == first["control"].digest


class TestVersions:
    def test_of_what_every_training_uses(self, monkeypatch):
        before = nodes(recipe())["control"].digest
        monkeypatch.setitem(versions.COMMON, "order", 99)
        assert nodes(recipe())["control"].digest != before

    def test_of_one_method(self, monkeypatch):
        before = {method: nodes(recipe(method))["student"].digest for method in ("kd", "crd")}
        monkeypatch.setitem(versions.METHODS, "crd", 2)
        after = {method: nodes(recipe(method))["student"].digest for method in ("kd", "crd")}
        assert before["kd"] == after["kd"] and before["crd"] != after["crd"]


def test_networks_that_learn_together_are_one_training():
    found = nodes(recipe("dml"))
    assert found.keys() == {"student", "control"} and found["student"].taught == ()
    assert [stage.name for stage in found["student"].beside.stages] == ["teacher"]
    made = found["student"].recipe(lambda node: pytest.fail("it has no parents"), ())
    assert [stage.name for stage in made.stages] == ["teacher", "student"]


def test_points_along_a_teachers_training(tmp_path):
    found = nodes(recipe("rco", teacher_training="standard"))
    student, teacher = found["student"], found["teacher"]
    assert [(one.stage, one.epoch) for one in student.taught] == [
        ("teacher-at-8", 8),
        ("teacher-at-15", 15),
        ("teacher-at-22", 22),
        ("teacher", None),
    ]
    assert all(one.node is teacher for one in student.taught)
    (tmp_path / "checkpoints").mkdir()
    for name in ("checkpoints/teacher@8", "checkpoints/teacher@15", "checkpoints/teacher@22", "teacher"):
        (tmp_path / f"{name}.safetensors").write_bytes(name.encode())
    made = student.recipe(lambda node: tmp_path, ())
    assert made.stages[-1].teachers == ("teacher-at-8", "teacher-at-15", "teacher-at-22", "teacher")
    assert [stage.file for stage in made.stages[:-1]] == [
        str(tmp_path / f"checkpoints/teacher@{epoch}.safetensors") for epoch in (8, 15, 22)
    ] + [str(tmp_path / "teacher.safetensors")]


def test_a_teacher_of_a_file_is_known_by_its_content():
    def learning_from(file: str, sha256: str) -> str:
        made = recipe()
        loaded = StageRecipe(name="teacher", role="teacher", network="wrn_16_2", file=file, sha256=sha256)
        return nodes(replace(made, stages=(loaded, *made.stages[1:])))["student"].digest

    assert learning_from("here.pth", "a" * 64) == learning_from("there.pth", "a" * 64)
    assert learning_from("here.pth", "a" * 64) != learning_from("here.pth", "b" * 64)
