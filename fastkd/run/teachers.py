"""Teachers that are given to a recipe instead of being trained in it."""

from dataclasses import replace

from fastkd.recipes.recipe import Recipe, StageRecipe
from fastkd.run.weights import describe, find_weights
from fastkd.support.errors import UserError
from fastkd.support.files import sha256


def with_loaded_teacher(recipe: Recipe, spec: str, network: str | None) -> Recipe:
    """spec: RUN, RUN@EPOCH or FILE; network: what the file holds, where it does not say so."""
    description = describe(file := find_weights(spec).absolute())
    if description is not None and network not in (None, description.network):
        raise UserError(f"{file} holds a {description.network}, --teacher-net says {network}")
    teacher = _loaded("teacher", spec, network)
    return replace(recipe, stages=tuple(teacher if stage.name == "teacher" else stage for stage in recipe.stages))


def with_more_teachers(recipe: Recipe, specs: tuple[str, ...], network: str | None) -> Recipe:
    """Beside the first; network: of those whose files do not say it."""
    if not specs:
        return recipe
    more = [_loaded(f"teacher-{number}", spec, network) for number, spec in enumerate(specs, 2)]
    stages: list[StageRecipe] = []
    for stage in recipe.stages:
        if stage.teachers:
            stage = replace(stage, teachers=(*stage.teachers, *(teacher.name for teacher in more)))
        stages += [stage, *more] if stage.name == "teacher" else [stage]
    words = f"{1 + len(more)} teachers instead of one"
    return replace(recipe, stages=tuple(stages), deviations=(*recipe.deviations, words))


def _loaded(name: str, spec: str, network: str | None) -> StageRecipe:
    file = find_weights(spec).absolute()
    description = describe(file)
    network = network if description is None else description.network
    if network is None:
        raise UserError(f"{file} does not say which network it holds: give --teacher-net")
    return StageRecipe(name=name, kind="loaded", network=network, file=str(file), sha256=sha256(file))
