"""Students beside their controls, their teachers and each other."""

from dataclasses import replace

from helpers.made_runs import write_run

from fastkd import recipes
from fastkd.run.comparison import comparison, students
from fastkd.run.shown import read_runs


def made(tmp_path, method, hits, seeds=2):
    recipe = replace(recipes.digits(teacher_net="resnet8", student="resnet8", method=method), seeds=seeds)
    return write_run(tmp_path / method, recipe, hits)


def test_every_student_has_the_control_and_the_teacher_of_its_run(tmp_path):
    hits = {"teacher": [90, 92], "student": [85, 89], "control": [70, 74]}
    runs = read_runs([made(tmp_path, "kd", hits), made(tmp_path, "kd+at", {name: [1, 1] for name in hits})])
    one, other = students(runs)
    assert (one.words, other.words) == ("kd", "kd+at")
    assert one.row.top1.values == (85, 89) and one.control.top1.values == (70, 74) and one.teacher.top1.mean == 91
    assert other.control.top1.mean == other.teacher.top1.mean == 1


def test_a_run_whose_student_is_not_finished_is_not_compared(tmp_path):
    runs = read_runs([made(tmp_path, "kd", {"teacher": [90, 92]})])
    assert list(students(runs)) == [] and list(comparison(runs)) == []


def test_several_students_of_a_run_are_told_apart_by_their_names(tmp_path):
    recipe = recipes.digits(teacher_net="resnet8", student="resnet8")
    teacher, student, control = recipe.stages
    many = tuple(replace(student, name=name) for name in ("first", "second"))
    recipe = replace(recipe, seeds=2, stages=(teacher, control, *many))
    hits = {"teacher": [9, 9], "control": [7, 9], "first": [8, 8], "second": [5, 5]}
    found = list(students(read_runs([write_run(tmp_path / "run", recipe, hits)])))
    assert [student.words for student in found] == ["digits, first", "digits, second"]
    page = "".join(comparison(read_runs([tmp_path / "run"])))
    assert "≈ +0.00" in page and "-3.00" in page and page.count("<circle") == 2 * 2 + 2


def test_a_single_student_has_no_chart_to_compare_it_in(tmp_path):
    hits = {"teacher": [90, 92], "student": [85, 89], "control": [70, 74]}
    assert "<svg" not in "".join(comparison(read_runs([made(tmp_path, "kd", hits)])))
