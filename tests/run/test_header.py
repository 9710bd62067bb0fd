"""What stands above a run."""

from dataclasses import replace
from pathlib import Path

import pytest
from helpers.courses import prestage_recipe, taught_recipe
from helpers.tiny import job_of, tiny_recipe

from fastkd.ops import select
from fastkd.run.header import header
from fastkd.support import distributed
from fastkd.training.execution import EVERYTHING_OFF


def lines(recipe, execution=None):
    return header(job_of(recipe, execution), Path("runs/one")).splitlines()


def stages(recipe):
    """Its lines of the stages, by their names."""
    return dict(line.strip().split(": ", 1) for line in lines(recipe)[2:-2])


@pytest.fixture(autouse=True)
def nothing_forced(monkeypatch):
    monkeypatch.delenv("FASTKD_OPS", raising=False)
    yield
    select._chosen.cache_clear()


def test_it_begins_with_what_is_done_on_what_and_where_to():
    first, where, *_, how, operations = lines(tiny_recipe(threads=3))
    assert first == "digits: 3 trainings (teacher, student, control), 6 epochs in all  ->  runs/one"
    assert where == "  on CPU, 3 threads; digits: 128 images to train on, 899 to test on, 8 pixels, 10 classes"
    assert how.startswith("  compile off, capture off, float32, contiguous, teacher folding off (compiling is off")
    assert operations.startswith("  computed by distill_loss: ")
    assert all(f" {operation}: " in operations for operation in select.OPERATIONS.keys() - select.PARTS)


def test_seeds_and_a_single_training_are_said():
    assert ", for each of the seeds 3 to 5  ->" in lines(tiny_recipe(seed=3, seeds=3))[0]
    recipe = taught_recipe("ls")
    alone = replace(recipe, stages=(replace(recipe.stages[1], teachers=()),))
    assert lines(alone)[0].startswith("digits: one training (student), 2 epochs  ->")


def test_on_a_cpu_nothing_sounds_like_a_fault(monkeypatch):
    """That kernels for a GPU do not run there is no news, whether or not Triton is installed."""
    for found in (None, object()):
        monkeypatch.setattr(select.importlib.util, "find_spec", lambda name, found=found: found)
        select._chosen.cache_clear()
        said = "\n".join(lines(tiny_recipe())).lower()
        assert not [word for word in ("triton", "does not run", "not installed", "interpret", "cuda") if word in said]


def test_what_is_missing_and_could_be_there_is_said(monkeypatch):
    monkeypatch.setattr(select, "missing", lambda library: f"the compiled {library} library was not built")
    select._chosen.cache_clear()
    assert "crd: PyTorch (the compiled cpu library was not built)" in lines(tiny_recipe())[-1]


def test_where_nothing_is_off_no_reason_stands_behind_it():
    job = replace(job_of(tiny_recipe()), execution=EVERYTHING_OFF._replace(deterministic=True), why_off="")
    assert header(job, Path("x")).splitlines()[-2].endswith("teacher folding off, deterministic")


def test_forced_operations_are_said_to_be(monkeypatch):
    monkeypatch.setenv("FASTKD_OPS", "distill_loss=reference")
    assert "distill_loss: PyTorch (forced by FASTKD_OPS)" in lines(tiny_recipe())[-1]


def test_several_processes_share_the_batch_and_the_machine(monkeypatch):
    recipe = tiny_recipe(threads=2)
    job = job_of(recipe)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    _, where, *rest = header(job, Path("x")).splitlines()
    assert "on 2 processes, each on CPU with 2 threads; digits" in where
    assert rest[-3].endswith("sgd lr 0.05 for the whole batch of 32 (16 a process)")


def of_batch(words, method, processes, monkeypatch, **training):
    """The end of the student's line, behind the size of the batch."""
    recipe = taught_recipe(method)
    plain = [replace(stage, training=replace(stage.training, **training)) for stage in recipe.stages]
    job = job_of(replace(recipe, stages=tuple(plain)))
    monkeypatch.setattr(distributed, "world_size", lambda: processes)
    line = next(line for line in header(job, Path("x")).splitlines() if line.startswith("  student"))
    assert line.partition("for the whole batch of 32")[2] == words


@pytest.mark.parametrize(
    "method, processes, training, words",
    [
        ("kd", 3, {}, " (uneven shares: 10+11+11, each weighted by its images)"),
        ("kd", 2, {"shards": 8}, " (8 shards of 4)"),
        ("kd+sp", 1, {}, ""),
        ("kd+sp", 2, {}, " (16 a process); sp relates the images of one share"),
        ("kd+sp+rkd", 1, {"shards": 2}, " (2 shards of 16); sp and rkd relate the images of one shard"),
        ("kd+sp", 1, {"accumulate": 2}, "; sp relates the images of one part"),
    ],
)
def test_how_a_batch_is_shared_and_who_sees_a_share_of_it(method, processes, training, words, monkeypatch):
    of_batch(words, method, processes, monkeypatch, **training)


def test_a_rate_that_follows_the_batch_is_said_with_what_it_is_meant_for():
    (*_, control) = tiny_recipe().stages
    recipe = tiny_recipe(stages=(replace(control, training=replace(control.training, scale_lr_from=8)),))
    assert stages(recipe)["control"].endswith("sgd lr 0.2 (0.05 for one of 8) for the whole batch of 32")


class TestStages:
    def test_a_teacher_with_branches_a_student_and_a_control(self):
        how = "2 epochs, sgd lr 0.05 for the whole batch of 32"
        assert stages(tiny_recipe()) == {
            "teacher": f"resnet8 with branches of resnet8, {how}",
            "student": f"resnet8 from teacher by kd, {how}",
            "control": f"resnet8, {how}",
        }

    def test_a_loaded_teacher_says_where_it_is_from(self):
        recipe = taught_recipe("kd")
        loaded = replace(recipe.stages[0], training=None, file="/data/teacher.pt")
        assert stages(replace(recipe, stages=(loaded, recipe.stages[1])))["teacher"] == "resnet8 from /data/teacher.pt"

    def test_several_teachers_are_all_named(self):
        assert stages(taught_recipe("aveg", 2))["student"].startswith("resnet8 from teacher and teacher-2 by aveg, ")

    def test_a_student_without_a_teacher_is_a_network_that_is_trained(self):
        recipe = taught_recipe("ls")
        alone = replace(recipe, stages=(replace(recipe.stages[1], teachers=()),))
        assert stages(alone)["student"].startswith("resnet8, 2 epochs, ")

    def test_what_a_method_trains_before_has_a_line_with_its_own_numbers(self):
        found = stages(prestage_recipe("kd+sskd"))["student-sskd"]
        assert found == "what sskd trains before, 2 epochs, sgd lr 0.05 for the whole batch of 32"

    def test_networks_that_learn_together_show_a_rate_that_is_not_the_students(self):
        given = taught_recipe("kdcl", 2)
        slow = replace(given.stages[0], training=replace(given.stages[0].training, lr=0.01))
        (line,) = stages(replace(given, stages=(slow, *given.stages[1:]))).values()
        assert line.startswith("resnet8 and teacher resnet8 (lr x0.2) and teacher-2 resnet8 together by kdcl, 2 epochs")

    @pytest.mark.parametrize("rate, words", ((0.05, "0.05"), (1e-05, "1e-05"), (0.078, "0.078"), (1.0, "1")))
    def test_a_rate_is_as_short_as_it_can_be(self, rate, words):
        recipe = taught_recipe("kd")
        training = replace(recipe.stages[1].training, lr=rate, optimizer="adam")
        found = stages(replace(recipe, stages=(recipe.stages[0], replace(recipe.stages[1], training=training))))
        assert found["student"].endswith(f", adam lr {words} for the whole batch of 32")
