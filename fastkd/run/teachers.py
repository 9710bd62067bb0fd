"""Teachers that are given to a recipe instead of being trained in it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fastkd.recipes.recipe import Recipe, StageRecipe
from fastkd.run.weights import WeightsFiles
from fastkd.support.errors import UserError


def with_loaded_teacher(
    recipe: Recipe,
    spec: str,
    network: str | None,
    files: WeightsFiles,
    *,
    prefix: str = "",
    any_images: bool = False,
) -> Recipe:
    """Loads the recipe's teacher from `spec`, which is RUN, RUN@EPOCH or FILE, instead of training it.

    network: the network in the file, where the file does not name it. prefix, any_images: see `StageRecipe`.
    """
    file = files.found(spec)
    if file.network is not None and network not in (None, file.network):
        raise UserError(f"{file.path} holds a {file.network}, --teacher-net says {network}")
    teacher = replace(_loaded("teacher", spec, network, files), prefix=prefix, any_images=any_images)
    stages = tuple(teacher if stage.name == "teacher" else stage for stage in recipe.stages)
    begun_with = {stage.begins for stage in stages}
    return replace(recipe, stages=tuple(s for s in stages if s.role != "base" or s.name in begun_with))


def with_more_teachers(
    recipe: Recipe, specs: tuple[str, ...], network: str | None, files: WeightsFiles, *, any_images: bool = False
) -> Recipe:
    """Adds further teachers beside the first; network: that of the files that do not name theirs."""
    if not specs:
        return recipe
    found = (_loaded(f"teacher-{number}", spec, network, files) for number, spec in enumerate(specs, 2))
    more = [replace(teacher, any_images=any_images) for teacher in found]
    stages: list[StageRecipe] = []
    for stage in recipe.stages:
        if stage.teachers:
            stage = replace(stage, teachers=(*stage.teachers, *(teacher.name for teacher in more)))
        stages += [stage, *more] if stage.name == "teacher" else [stage]
    words = f"{1 + len(more)} teachers instead of one"
    return replace(recipe, stages=tuple(stages), deviations=(*recipe.deviations, words))


def with_teachers_of(recipe: Recipe, names: Sequence[str], run: Path, files: WeightsFiles) -> Recipe:
    """The recipe with the teachers of these names loaded from a run that has trained them."""
    stages = tuple(
        _loaded(stage.name, str(run / f"{stage.name}.safetensors"), stage.network, files)
        if stage.name in names
        else stage
        for stage in recipe.stages
    )
    return replace(recipe, stages=stages)


def _loaded(name: str, spec: str, network: str | None, files: WeightsFiles) -> StageRecipe:
    file = files.found(spec)
    network = file.network or network
    if network is None:
        raise UserError(f"{file.path} does not say which network it holds: give --teacher-net")
    return StageRecipe(name=name, role="teacher", network=network, file=str(file.path), sha256=file.sha256)
