"""The papers' settings, as recipes and through the command line."""

import json

import pytest

from fastkd.recipes import RECIPES
from fastkd.recipes.recipe import plain_to_recipe, recipe_to_plain
from fastkd.support.errors import UserError


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("teacher_training", ("standard", "sftn"))
def test_recipes_survive_json(name, teacher_training):
    recipe = RECIPES[name](teacher_training=teacher_training, control=True)
    again = plain_to_recipe(json.loads(json.dumps(recipe_to_plain(recipe))), "here")
    assert again == recipe
    assert (RECIPES[name].__doc__ or "").strip()


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda plain: plain.pop("format"), "has no entry 'format'"),
        (lambda plain: plain.pop("data"), "lacks the entry 'data'"),
        (lambda plain: plain.update(seeds="three"), "seeds is 'three', expected int"),
        (lambda plain: plain.update(seeds=True), "seeds is True, expected int"),
        (lambda plain: plain["stages"][0].update(role="magic"), "role is 'magic', expected one of"),
        (lambda plain: plain["stages"][1]["settings"]["kd"].update(tau=1), "kd has an unknown entry 'tau'"),
        (lambda plain: plain.update(mean=[0.5]), "mean has 1 entries, expected 3"),
        (lambda plain: plain.update(stages=5), "stages is 5, expected a list"),
    ],
)
def test_slips_in_a_recipe_file(change, words):
    plain = json.loads(json.dumps(recipe_to_plain(RECIPES["digits"]())))
    change(plain)
    with pytest.raises(UserError, match=words):
        plain_to_recipe(plain, "here")
