"""What tells runs apart: the settings in which their recipes differ, in few words."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastkd.methods import short_name
from fastkd.recipes.recipe import Recipe, StageRecipe
from fastkd.support.plain import to_plain

_NO_SETTINGS = {"name", "stages", "deviations", "published_classes"}
_MOST_WORDS = 3


def settings(recipe: Recipe) -> dict[str, str]:
    """Every setting of a recipe by a name that one would use on the command line, the telling ones first.

    A setting of all trainings with one value in all of them stands once.
    """
    plain = to_plain(recipe)
    stages = {stage.name: _of_stage(stage, recipe) for stage in recipe.stages}
    shared = _shared(list(stages.values()))
    own = {
        name if name.startswith(_owners(recipe)) else f"{stage} {name}": value
        for stage, found in stages.items()
        for name, value in found.items()
        if name not in shared
    }
    common = flat({name: value for name, value in plain.items() if name not in _NO_SETTINGS})
    return _telling(recipe) | {"recipe": recipe.name} | own | shared | common


def labels(found: Sequence[Mapping[str, str]], folders: Sequence[str]) -> list[str]:
    """A name for each of several runs, out of the settings in which they differ; found: the settings of each.

    A run of which that leaves in doubt which it is has its folder's name behind it.
    """
    chosen: list[str] = []
    for name in differing(found):
        if len(chosen) < _MOST_WORDS and _told(found, [*chosen, name]) > _told(found, chosen):
            chosen.append(name)
    words = [", ".join(_words(name, run[name]) for name in _needed(run, found, chosen) if name in run) for run in found]
    doubtful = [words.count(word) > 1 or not word for word in words]
    return [
        " ".join(filter(None, (word, f"({folder})" if word else folder))) if doubt else word
        for word, doubt, folder in zip(words, doubtful, folders, strict=True)
    ]


def differing(found: Sequence[Mapping[str, str]]) -> list[str]:
    """The names of the settings in which several runs differ."""
    names = dict.fromkeys(name for run in found for name in run)
    return [name for name in names if len({run.get(name) for run in found}) > 1]


def flat(value: Any, prefix: str = "") -> dict[str, str]:
    """{`a.b.c`: value as text} of nested dictionaries."""
    if not isinstance(value, dict):
        return {prefix: _text(value)}
    found: dict[str, str] = {}
    for key, item in value.items():
        found |= flat(item, f"{prefix}.{key}" if prefix else str(key))
    return found


def _telling(recipe: Recipe) -> dict[str, str]:
    """What one tells of a run first."""
    students, teachers = recipe.of_role("student"), recipe.of_role("teacher")
    methods = dict.fromkeys("+".join(map(short_name, stage.method.split("+"))) for stage in students if stage.method)
    telling = {
        "method": ", ".join(methods),
        "teacher": " + ".join(stage.network for stage in teachers),
        "teacher training": ", ".join(dict.fromkeys(map(_training, teachers))),
        "student": ", ".join(dict.fromkeys(stage.network for stage in students)),
    }
    return {name: value or "none" for name, value in telling.items()}


def _training(teacher: StageRecipe) -> str:
    return "loaded" if teacher.training is None else _with_branches(teacher)


def _with_branches(teacher: StageRecipe) -> str:
    return "gtn" if teacher.gtn is not None else "sftn" if teacher.sftn is not None else "standard"


def _of_stage(stage: StageRecipe, recipe: Recipe) -> dict[str, str]:
    plain = to_plain(stage)
    found = flat(plain["training"] or {})
    if stage.sftn is not None:
        found |= flat(plain["sftn"], "sftn")
    if stage.gtn is not None:
        found |= flat(plain["gtn"], "gtn")
    one = len(recipe.of_role(stage.role)) == 1
    for method, own in plain["settings"].items():
        name = short_name(method)
        found |= flat(own, name if one else f"{stage.name} {name}")
    return found | {name: plain[name] for name in ("file", "sha256") if plain[name]}


def _owners(recipe: Recipe) -> tuple[str, ...]:
    """What the names of settings begin with that need no stage's name before them."""
    methods = {short_name(method) for stage in recipe.stages for method in stage.settings}
    return ("sftn.", "gtn.", *(f"{method}." for method in methods), *(f"{stage.name} " for stage in recipe.stages))


def _shared(stages: Sequence[Mapping[str, str]]) -> dict[str, str]:
    trained = [stage for stage in stages if "epochs" in stage]
    first = trained[0] if trained else {}
    return {name: value for name, value in first.items() if all(stage.get(name) == value for stage in trained)}


def _told(found: Sequence[Mapping[str, str]], names: Sequence[str]) -> int:
    """How many kinds of runs these settings tell apart."""
    return len({tuple(run.get(name) for name in names) for run in found})


def _needed(run: Mapping[str, str], found: Sequence[Mapping[str, str]], names: Sequence[str]) -> list[str]:
    """Those of the settings in which the run differs from a run that those before them do not tell from it."""
    alike, needed = list(found), []
    for name in names:
        if any(other.get(name) != run.get(name) for other in alike):
            needed.append(name)
            alike = [other for other in alike if other.get(name) == run.get(name)]
    return needed


def _words(name: str, value: str) -> str:
    if name == "teacher training":
        return f"{value} teacher"
    return value if name in ("method", "recipe") else f"{name} {value}"


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list):
        return " ".join(_text(item) for item in value) or "none"
    if isinstance(value, float):
        return f"{value:g}"
    return "default" if value is None else str(value)
