"""How long the rest of a run will take, as far as anybody can know."""

from dataclasses import replace

import pytest
from helpers.tiny import tiny_recipe

from fastkd.recipes.course import course
from fastkd.run.outlook import Outlook


def outlook(seeds=1, **options):
    """A teacher of 4 epochs, a student and a control of 2."""
    recipe = tiny_recipe()
    teacher, *others = recipe.stages
    stages = (replace(teacher, training=replace(teacher.training, epochs=4)), *others)
    return Outlook(course(replace(recipe, stages=stages)), seeds, **options)


def test_before_anything_is_known_every_epoch_is_like_the_running_ones():
    known = outlook()
    for _ in range(2):  # looking changes nothing
        assert known.seconds_after("teacher", 10.0) == pytest.approx((2 + 2) * 10.0)


def test_a_stage_that_is_not_known_is_as_fast_as_the_known_ones_on_average():
    known = outlook()
    known.finished("teacher", 80.0)  # 20 an epoch
    assert known.seconds_after("student", 5.0) == pytest.approx(2 * (80 + 2 * 5) / (4 + 2))


def test_further_seeds_take_what_the_first_took():
    known = outlook(seeds=3)
    for name, seconds in (("teacher", 80.0), ("student", 10.0), ("control", 6.0)):
        known.finished(name, seconds)
    after = known.seconds_after("teacher", 1.0)
    assert after == pytest.approx(80 + 2 * (10 + 6)), "one teacher, two students, two controls; this one is running"
    known.finished("teacher", 60.0)
    assert known.seconds_after("student", 1.0) == pytest.approx(6 + (70 + 10 + 6))


def test_at_the_end_nothing_is_left():
    known = outlook()
    known.finished("teacher", 8.0)
    known.finished("student", 2.0)
    assert known.seconds_after("control", 1.0) == 0


def test_what_is_loaded_takes_no_training():
    known = outlook()
    known.finished("teacher-2", 0.0)
    assert "teacher-2" not in known.took


def test_a_teacher_that_is_trained_once_is_not_waited_for_again():
    known = outlook(seeds=3, once=("teacher",))
    for name, seconds in (("teacher", 80.0), ("student", 10.0), ("control", 6.0), ("teacher", 0.0)):
        known.finished(name, seconds)
    assert known.seconds_after("student", 1.0) == pytest.approx(6 + 10 + 6)
