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


def digits(seeds: int) -> Recipe:
    return replace(recipes.digits(), seeds=seeds, threads=1)


def test_one_seed(tmp_path):
    student, control, ratio = figures(digits(1), tmp_path)
    assert student > 96.5 and student > control and ratio < 0.8


@pytest.mark.slow
def test_five_seeds(tmp_path):
    student, control, ratio = figures(digits(5), tmp_path)
    assert student >= 97.3 and student - control >= 0.4 and ratio <= 0.75
