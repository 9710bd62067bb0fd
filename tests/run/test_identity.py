"""What a stage's numbers depend on: today's settings, compared with what a file says of earlier ones."""

from dataclasses import replace
from pathlib import Path

import pytest
from helpers.tiny import tiny_recipe

from fastkd.data.digits import digits
from fastkd.recipes.course import course
from fastkd.run.identity import stage_identity
from fastkd.support.errors import UserError

FILE = Path("run/checkpoints/student.pt")


def identity(**changes):
    recipe = replace(tiny_recipe(), **changes)
    (student,) = (planned for planned in course(recipe) if planned.name == "student")
    return stage_identity(recipe, student, recipe.seed, digits())


def without(plain, *places):
    """A copy of nested dictionaries that lacks the entries at these places, as if written before they existed."""
    copy = {name: without(item) if isinstance(item, dict) else item for name, item in plain.items()}
    for *folders, name in (place.split(".") for place in places):
        inner = copy
        for folder in folders:
            inner = inner[folder]
        del inner[name]
    return copy


def test_a_run_goes_on_with_its_own_recipe():
    identity().refuse_changes(identity().plain, FILE)


@pytest.mark.parametrize(
    "changes",
    ({"image_size": 12}, {"limit_train": 3}, {"mean": (0.5, 0.5, 0.5), "std": (1.0, 1.0, 1.0)}, {"seed": 9}),
    ids=str,
)
def test_and_with_no_other(changes):
    with pytest.raises(UserError, match=rf"made with .*{next(iter(changes))}.*, the recipe now says"):
        identity(**changes).refuse_changes(identity().plain, FILE)


def test_what_does_not_change_its_numbers_may_change():
    identity(eval_every=3, threads=1, seeds=4).refuse_changes(identity().plain, FILE)


@pytest.mark.parametrize(
    "place",
    ("stage.training.ema", "stage.training.nesterov", "data.augmentation.rotation", "stage.settings.kd.kl_weight"),
)
def test_a_file_from_before_a_setting_existed_has_its_default(place):
    identity().refuse_changes(without(identity().plain, place), FILE)


def test_and_is_refused_where_the_recipe_has_another_value():
    recipe = tiny_recipe()
    stages = [replace(stage, training=replace(stage.training, nesterov=True)) for stage in recipe.stages]
    changed = identity(stages=tuple(stages))
    with pytest.raises(UserError, match="stage.training.nesterov = False, the recipe now says True"):
        changed.refuse_changes(without(identity().plain, "stage.training.nesterov"), FILE)
