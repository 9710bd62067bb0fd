"""Several students of the same teachers in one recipe, and several seeds that share a store."""

from collections.abc import Sequence
from dataclasses import replace

from fastkd.recipes.recipe import Recipe, StageRecipe
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
        stages += [_renamed(stage) for stage in other.stages if stage.role != "teacher"]
        deviations += [words for words in other.deviations if words not in deviations]
        if _branches(other) != _branches(first):
            own, used = (" and ".join(_branches(recipe)) for recipe in (other, first))
            deviations.append(f"{_student(other)} from a teacher with branches of {used} instead of {own}")
    return replace(first, stages=tuple(stages), deviations=tuple(deviations))


def with_one_data_seed(recipe: Recipe) -> Recipe:
    """With stored teachers all seeds see the same crops, those of the rows; raises UserError where they cannot."""
    if recipe.storing.teacher_outputs is None or recipe.seeds == 1:
        return recipe
    trained = next((stage.name for stage in recipe.of_role("teacher") if stage.training is not None), None)
    if trained is not None:
        raise UserError(
            f"--teacher-outputs with --seeds {recipe.seeds}: every seed would train a {trained} of its own; "
            "give one by --teacher RUN"
        )
    return replace(recipe, data_seed=recipe.seed) if recipe.data_seed is None else recipe


def _renamed(stage: StageRecipe) -> StageRecipe:
    return replace(stage, name=f"{stage.name}-{stage.network}")


def _student(recipe: Recipe) -> str:
    return recipe.of_role("student")[0].network


def _branches(recipe: Recipe) -> list[str]:
    return [stage.sftn.network for stage in recipe.of_role("teacher") if stage.sftn is not None]
