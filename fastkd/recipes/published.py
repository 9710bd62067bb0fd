"""The figure of a paper that stands beside a run, and the differences of the run from the paper's."""

import re
from dataclasses import replace
from typing import Any

from fastkd.methods import split_methods
from fastkd.recipes import RECIPES
from fastkd.recipes.course import learning_together
from fastkd.recipes.printed import departures, is_printed
from fastkd.recipes.recipe import Recipe, StageRecipe, recipe_to_plain
from fastkd.recipes.shortened import shortened_training
from fastkd.recipes.tables import ENTRIES, Entry
from fastkd.support.plain import differences

_NOT_COMPARED = {
    *("data", "seed", "seeds", "data_seed", "threads", "eval_every", "keep_epochs"),
    *("execution", "reading", "storing", "deviations"),
}
"""Entries of a recipe that may differ without making the figures incomparable."""


def beside_the_paper(recipe: Recipe) -> Recipe:
    """The recipe with the figures of the nearest cell of its paper, and its deviations from that cell's run."""
    if recipe.name not in RECIPES or recipe.stage("student") is None:
        return replace(recipe, deviations=("it is no recipe of fastkd's",))
    found = _cells(recipe)
    if not found:
        return _with_figures(recipe, {}, _deviations(recipe, RECIPES[recipe.name](**choice_of(recipe))))
    compared = [(_deviations(recipe, run_of(entry, recipe)), entry) for entry in found]
    deviations, entry = min(compared, key=lambda pair: len(pair[0]))  # the first one, if several are nearest
    return _with_figures(recipe, entry.figures, deviations)


def with_other_classes(recipe: Recipe, classes: int) -> Recipe:
    """Adds a deviation where the data have another number of classes than those of the published figures."""
    if recipe.published_classes in (None, classes):
        return recipe
    words = f"{classes} classes instead of {recipe.published_classes}"
    return replace(recipe, deviations=(*recipe.deviations, words))


def beside_the_entry(recipe: Recipe, entry: Entry) -> Recipe:
    """The recipe with the figures of that entry, and its deviations from the entry's own run."""
    return _with_figures(recipe, entry.figures, _deviations(recipe, run_of(entry, recipe)))


def choice_of(recipe: Recipe) -> dict[str, Any]:
    """The fields of the `Choice` that a recipe was made from."""
    student, teachers = recipe.stage("student"), recipe.of_role("teacher")
    assert student is not None
    sftn = teachers[0].sftn if teachers else None
    gtn = teachers[0].gtn if teachers else None
    choice = {
        "data": recipe.data,
        "student": student.network,
        "branch": sftn.network if sftn else student.network,
        "branch_blocks": sftn.blocks if sftn else None,
        "branch_starts": sftn.starts if sftn else None,
        "teacher_training": "gtn" if gtn else "sftn" if sftn else "standard",
        "method": student.method,
        "control": bool(recipe.of_role("control")),
    }
    return choice | ({"teacher_net": "+".join(stage.network for stage in teachers)} if teachers else {})


def run_of(entry: Entry, recipe: Recipe | None = None) -> Recipe:
    """The recipe that an entry's command runs; `recipe`, if given, says on which data and whether with a control."""
    chosen: dict[str, Any] = {"student": entry.student, "method": entry.method}
    if entry.teacher:
        chosen |= {"teacher_net": entry.teacher, "teacher_training": entry.teacher_training}
    if recipe is not None:
        chosen |= {name: choice_of(recipe)[name] for name in ("data", "control")}
    for name in ("branch", "branch-blocks"):
        if name in entry.options:
            chosen[name.replace("-", "_")] = entry.options[name]
    run = RECIPES[entry.recipe](**chosen)
    stages = tuple(_with_options(stage, entry.options) for stage in run.stages)
    return replace(run, stages=stages, deviations=(*run.deviations, *entry.choices))


def spoken(place: str, recipe: Recipe) -> str:
    """A place in a recipe in words: `stages[1].training.lr` as `student lr`."""
    if not place.startswith("stages["):
        return place
    number, _, rest = place.removeprefix("stages[").partition("].")
    return f"{recipe.stages[int(number)].name} {rest.removeprefix('training.')}"


def _cells(recipe: Recipe) -> list[Entry]:
    """The cells of this pair, kind of teacher and method.

    If the paper lacks the method: the pair's other cells, without the student's figure.
    """
    choice = choice_of(recipe)
    method, kind = choice["method"], choice["teacher_training"]
    mine = (recipe.name, choice.get("teacher_net", ""), choice["student"], kind)
    pair = [e for e in ENTRIES if (e.recipe, e.teacher, e.student, e.teacher_training) == mine]
    return [e for e in pair if _same_method(e.method, method)] or [_of_others(e, method) for e in pair]


def _of_others(entry: Entry, method: str) -> Entry:
    """What an entry says of the stages that do not depend on the student's method."""
    figures = {stage: figure for stage, figure in entry.figures.items() if stage != "student"}
    options = {name: value for name, value in entry.options.items() if name.startswith(("sftn.", "gtn.", "branch"))}
    return replace(entry, method=method, figures=figures, options=options)


def _same_method(one: str, other: str) -> bool:
    return set(split_methods(one)) == set(split_methods(other))


def _with_options(stage: StageRecipe, options: dict[str, Any]) -> StageRecipe:
    """The stage with those options of an entry that are its epochs, or settings of SFTN, GTN or a method: `sftn.X` and
    `METHOD.X`."""
    epochs = options.get("teacher-epochs" if stage.role == "teacher" else "epochs")
    if epochs is not None and stage.training is not None:
        stage = replace(stage, training=shortened_training(stage.training, {"epochs": epochs}))
    for option, value in options.items():
        owner, _, name = option.partition(".")
        name = name.replace("-", "_")
        if owner == "sftn" and stage.sftn is not None:
            stage = replace(stage, sftn=replace(stage.sftn, **{name: value}))
        elif owner == "gtn" and stage.gtn is not None:
            stage = replace(stage, gtn=replace(stage.gtn, **{name: value}))
        elif owner in stage.settings:
            changed = replace(stage.settings[owner], **{name: value})
            stage = replace(stage, settings={**stage.settings, owner: changed})
    return stage


def _with_figures(recipe: Recipe, figures: dict[str, Any], deviations: list[str]) -> Recipe:
    peers = learning_together(recipe)  # which are not what the paper calls the teacher
    figures = {name: figure for name, figure in figures.items() if name not in peers}
    stages = tuple(replace(stage, published=figures.get(stage.name)) for stage in recipe.stages)
    return replace(recipe, stages=stages, deviations=tuple(deviations))


def _deviations(resolved: Recipe, published: Recipe) -> list[str]:
    """The differences of a recipe from a published one, in words."""
    words = list(published.deviations)
    own = RECIPES[resolved.name]().data.partition(":")[0]
    given = resolved.data.partition(":")[0]
    if given != own:
        words.append(f"data {given} instead of {own}")
    loaded = {number for number, stage in enumerate(resolved.stages) if stage.training is None}
    words += [f"{resolved.stages[number].name} loaded instead of trained" for number in sorted(loaded)]
    fresh = [stage for stage in resolved.of_role("base") if not stage.file]
    words += [f"the {stage.name} begins with random weights instead of ImageNet's" for stage in fresh]
    words += resolved.storing.approximations
    chosen = set()
    for place, before, after in differences(recipe_to_plain(published), recipe_to_plain(resolved)):
        number, inside = _stage_and_place(place)
        if place == "stages":
            words.append("other stages")
        elif re.split(r"[.\[]", place)[0] in _NOT_COMPARED or number in loaded or inside in _OF_FILES:
            continue
        elif not is_printed(resolved, number, inside):
            words.append(f"{spoken(place, resolved)} {after} instead of {before}")
            chosen.add((number, inside))
    otherwise = (one for one in departures(resolved) if one.number not in loaded)
    return words + [one.words for one in otherwise if (one.number, one.place) not in chosen]


_OF_FILES = ("published", "file", "sha256")


def _stage_and_place(place: str) -> tuple[int, str]:
    """The number of the stage that a place is of, -1 where it is of none, and the place in it."""
    if not place.startswith("stages["):
        return -1, place
    number, _, inside = place.removeprefix("stages[").partition("].")
    return (int(number), inside) if number.isdigit() else (-1, place)
