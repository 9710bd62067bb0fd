"""Several students of the same teachers in one recipe, and several seeds that share a store."""

from collections.abc import Sequence
from dataclasses import replace

from fastkd.methods import find_method, split_methods
from fastkd.recipes.recipe import TEACHING, Recipe, StageRecipe
from fastkd.support.errors import UserError


def joined(recipes: Sequence[Recipe]) -> Recipe:
    """The first recipe with the students and controls of the others, which differ from it in the student's network.

    The first student is called `student`, the others `student-NETWORK`; controls likewise.
    """
    first, *others = recipes
    if not first.of_role("student"):
        raise UserError("--students changes nothing: the recipe has no student")
    stages, deviations = list(first.stages), list(first.deviations)
    for other in others:
        stages += [_renamed(stage) for stage in other.stages if stage.role not in TEACHING]
        deviations += [words for words in other.deviations if words not in deviations]
        if _branches(other) != _branches(first):
            own, used = (" and ".join(_branches(recipe)) for recipe in (other, first))
            deviations.append(f"{_student(other)} from a teacher with branches of {used} instead of {own}")
    return replace(first, stages=tuple(stages), deviations=tuple(deviations))


def with_one_data_seed(recipe: Recipe) -> Recipe:
    """With stored teachers all seeds see the same crops, those of the rows; raises UserError where they cannot."""
    if recipe.storing.teacher_outputs is None or recipe.seeds == 1:
        return recipe
    if shared_teachers(recipe) and (following := _followed_along(recipe)):
        raise UserError(
            f"--teacher-outputs with --seeds {recipe.seeds}: {following} follows the training of a teacher, and every "
            "seed would train one of its own; give its points by --teacher RUN@EPOCH"
        )
    return replace(recipe, data_seed=recipe.seed) if recipe.data_seed is None else recipe


def shared_teachers(recipe: Recipe) -> tuple[str, ...]:
    """The names of the teachers that the first seed trains for all of them: stored, they are paid once."""
    if recipe.storing.teacher_outputs is None or recipe.seeds == 1:
        return ()
    return tuple(stage.name for stage in recipe.of_role("teacher") if stage.training is not None)


def _followed_along(recipe: Recipe) -> str:
    """The first method that learns from points along the teacher's training; "" where none does."""
    for stage in (stage for stage in recipe.stages if stage.method):
        for name in split_methods(stage.method):
            if find_method(name).waypoints(stage.settings[name]) is not None:
                return name
    return ""


def _renamed(stage: StageRecipe) -> StageRecipe:
    return replace(stage, name=f"{stage.name}-{stage.network}")


def _student(recipe: Recipe) -> str:
    return recipe.of_role("student")[0].network


def _branches(recipe: Recipe) -> list[str]:
    return [stage.sftn.network for stage in recipe.of_role("teacher") if stage.sftn is not None]
