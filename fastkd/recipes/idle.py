"""Options that would change nothing in a recipe, each with the reason."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from fastkd.data import is_resident, stays_in_files
from fastkd.recipes.course import learning_together
from fastkd.recipes.recipe import Recipe
from fastkd.support.words import counted


class Idle(NamedTuple):
    option: str
    why: str


def idle_reading(recipe: Recipe, wanted: Mapping[str, Any]) -> Idle | None:
    """The first of the options of reading image files that changes nothing; None: all do."""
    name = recipe.data.partition(":")[0]
    if wanted and not stays_in_files(recipe.data):
        return Idle(next(iter(wanted)), f"{name} has no image files")
    if "loader" in wanted and is_resident(recipe.reading, recipe.augmentation.crop):
        return Idle("loader", "the images are decoded once, to stay on the device; it goes with --resident off")
    return None


def idle_storing(recipe: Recipe, wanted: Mapping[str, Any]) -> Idle | None:
    """The first of the options of storing teachers that changes nothing; None: all do."""
    if wanted and recipe.storing.teacher_outputs is None:
        return Idle(next(iter(wanted)), "it goes with --teacher-outputs")
    if "teacher_outputs" in wanted and (recipe.stage("teacher") is None or learning_together(recipe)):
        return Idle("teacher_outputs", "there is no teacher that is finished before the student learns from it")
    longest = max((stage.training.epochs for stage in recipe.of_role("student") if stage.training), default=0)
    if wanted.get("store_epochs", 0) >= longest > 0:
        return Idle("store_epochs", f"the student learns for {counted(longest, 'epoch')}")
    return None


def idle_with_made_images(
    recipe: Recipe, *, synthesis: Iterable[str], common: Iterable[str], augmentation: Iterable[str]
) -> Idle | None:
    """The first option of a synthesis that there is none of, or of a data set that no stage trains on; None: there is
    no such option."""
    made = [stage.synthesis for stage in recipe.stages if stage.synthesis is not None]
    if not made:
        of_none = next(iter(synthesis), None)
        return Idle(f"synthesis.{of_none}", f"the recipe {recipe.name} has images to train on") if of_none else None
    if any(stage.training is not None and stage.synthesis is None for stage in recipe.stages):
        return None
    if "limit_train" in common:
        return Idle("limit_train", "no stage trains on images of the data set")
    of_crops = next(iter(augmentation), None)
    if of_crops is None or any(one.has_pool for one in made):
        return None
    return Idle(of_crops, f"images of {made[0].kind} are made for one step, and seen as they are")
