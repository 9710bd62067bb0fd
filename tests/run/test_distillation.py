"""That distillation is alive: on the digits a student learns more from its teacher than from the labels alone."""

import json
from dataclasses import replace

import pytest
from helpers.tiny import train

from fastkd import recipes
from fastkd.recipes.recipe import Recipe
from fastkd.run.figures import rows


def figures(recipe: Recipe, folder) -> tuple[float, float, float]:
    """Mean accuracy of student and control, and KL(teacher ‖ student) over KL(teacher ‖ control)."""
    results = train(recipe, folder)
    found = {row.name: row for row in rows(recipe, results)}
    student, control = found["student"], found["control"]
    ratio = student.similarity["kl"].mean / control.similarity["kl"].mean
    print(json.dumps({"student": student.top1, "control": control.top1, "kl_ratio": ratio}))
    return student.top1.mean, control.top1.mean, ratio


def short() -> Recipe:
    """One seed, ten epochs a stage, a plainly trained teacher: a sixth of the recipe's work."""
    recipe = recipes.digits(teacher_training="standard")
    stages = tuple(replace(stage, training=replace(stage.training, epochs=10)) for stage in recipe.stages)
    return replace(recipe, stages=stages, seeds=1, threads=1)


def test_a_short_run(tmp_path):
    student, control, ratio = figures(short(), tmp_path)
    assert student > 96.5 and student >= control and ratio < 0.8


@pytest.mark.slow
def test_five_seeds(tmp_path):
    student, control, ratio = figures(replace(recipes.digits(), seeds=5, threads=1), tmp_path)
    assert student >= 97.3 and student - control >= 0.4 and ratio <= 0.75
