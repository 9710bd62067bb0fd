"""Several students, several seeds, one pass of the teacher."""

from dataclasses import replace
from pathlib import Path

import pytest

from fastkd.recipes import cifar100_sftn
from fastkd.recipes.several import joined, shared_teachers, with_one_data_seed
from fastkd.stored import Storing
from fastkd.support.errors import UserError


def made(*students, **chosen):
    return joined([cifar100_sftn(student=student, control=True, **chosen) for student in students])


def test_each_student_has_its_own_training_and_name():
    recipe = made("wrn_16_2", "ShuffleV1", teacher_training="standard")
    names = ["teacher", "student", "control", "student-ShuffleV1", "control-ShuffleV1"]
    assert [stage.name for stage in recipe.stages] == names
    assert [stage.training.lr for stage in recipe.of_role("student")] == [0.05, 0.01]
    assert {stage.teachers for stage in recipe.of_role("student")} == {("teacher",)}


def test_a_teacher_with_the_branches_of_another_student_is_a_difference():
    assert not made("wrn_16_2", teacher_training="sftn").deviations
    words = "ShuffleV1 from a teacher with branches of wrn_16_2 instead of ShuffleV1"
    assert words in made("wrn_16_2", "ShuffleV1", teacher_training="sftn").deviations
    assert words not in made("wrn_16_2", "ShuffleV1", teacher_training="standard").deviations


def test_seeds_share_the_crops_of_a_store():
    recipe = cifar100_sftn(teacher_training="standard")
    teacher = replace(recipe.stages[0], training=None, file="teacher.safetensors", sha256="0" * 64)
    recipe = replace(recipe, stages=(teacher, *recipe.stages[1:]), seeds=3, seed=5)
    storing = Storing(teacher_outputs=Path("store"))
    assert with_one_data_seed(recipe).data_seed is None
    assert with_one_data_seed(replace(recipe, storing=storing)).data_seed == 5
    assert with_one_data_seed(replace(recipe, storing=storing, data_seed=7)).data_seed == 7
    assert with_one_data_seed(replace(recipe, storing=storing, seeds=1)).data_seed is None


def test_seeds_of_one_store_share_the_teacher_that_the_first_trains():
    recipe = replace(cifar100_sftn(), seeds=3, storing=Storing(teacher_outputs=Path("store")))
    assert shared_teachers(recipe) == ("teacher",) and with_one_data_seed(recipe).data_seed == recipe.seed
    following = replace(cifar100_sftn(method="rco"), seeds=3, storing=recipe.storing)
    words = "--teacher-outputs with --seeds 3: rco follows the training of a teacher, .* by --teacher RUN@EPOCH"
    with pytest.raises(UserError, match=words):
        with_one_data_seed(following)
