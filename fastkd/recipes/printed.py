"""What a paper prints and its authors' code, or a recipe here, has otherwise.

Both count as the paper's: a run with the recipe's own value says in its deviations what is printed; one with what is
printed (`--as-printed`, or the option itself) differs in nothing.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from fastkd.recipes.course import learning_together
from fastkd.recipes.recipe import Recipe, StageRecipe

NOT_PRINTED = object()
"""The paper prints nothing of a stage that the recipe has otherwise."""


class Row(NamedTuple):
    recipes: tuple[str, ...]
    place: str
    """Of a stage, as in its plain form: `training.lr`, `settings.kd.kl_weight`."""
    printed: Callable[[StageRecipe, Recipe], Any]
    """What the paper prints for a stage that has such a place; NOT_PRINTED where it prints nothing else."""
    why: str
    """Whose value the recipe has."""


class Departure(NamedTuple):
    number: int
    """The stage's place in the recipe."""
    place: str
    value: Any
    printed: Any
    words: str


def departures(recipe: Recipe) -> list[Departure]:
    """Wherever the recipe has something else than what its paper prints."""
    found = []
    for number, stage, row in _rows(recipe):
        value, printed = read(stage, row.place), row.printed(stage, recipe)
        if printed is not NOT_PRINTED and not _alike(value, printed):
            leaf = row.place.removeprefix("training.").removeprefix("settings.")
            words = f"{stage.name} {leaf} {_shown(value)} where the paper prints {_shown(printed)}: {row.why}"
            found.append(Departure(number, row.place, value, printed, words))
    return found


def as_printed(recipe: Recipe) -> Recipe:
    """The recipe with whatever its paper prints."""
    stages = list(recipe.stages)
    for one in departures(recipe):
        stages[one.number] = written(stages[one.number], one.place, one.printed)
    return replace(recipe, stages=tuple(stages))


def is_printed(recipe: Recipe, number: int, place: str) -> bool:
    """Whether the stage of that number has at a place what the paper prints there."""
    for at, stage, row in _rows(recipe):
        if (at, row.place) == (number, place) and _alike(row.printed(stage, recipe), read(stage, place)):
            return True
    return False


def read(stage: StageRecipe, place: str) -> Any:
    """What a stage has at a place; NOT_PRINTED where it has no such place."""
    found: Any = stage
    for name in place.split("."):
        found = found.get(name) if isinstance(found, dict) else getattr(found, name, None)
        if found is None:
            return NOT_PRINTED
    return found


def written(stage: StageRecipe, place: str, value: Any) -> StageRecipe:
    """The stage with another value at a place."""
    return _written(stage, place.split("."), value)


def _written(owner: Any, names: list[str], value: Any) -> Any:
    name, *rest = names
    inner = owner[name] if isinstance(owner, dict) else getattr(owner, name)
    changed = _written(inner, rest, value) if rest else value
    return {**owner, name: changed} if isinstance(owner, dict) else replace(owner, **{name: changed})


def _rows(recipe: Recipe) -> Iterator[tuple[int, StageRecipe, Row]]:
    for row in ROWS:
        if recipe.name in row.recipes:
            for number, stage in enumerate(recipe.stages):
                if read(stage, row.place) is not NOT_PRINTED:
                    yield number, stage, row


def _shown(value: Any) -> str:
    return ("on" if value else "off") if isinstance(value, bool) else f"{value:g}" if _is_number(value) else str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _alike(value: Any, printed: Any) -> bool:
    return math.isclose(value, printed) if _is_number(value) and _is_number(printed) else value == printed


def _always(value: Any) -> Callable[[StageRecipe, Recipe], Any]:
    return lambda stage, recipe: value


def _softened(value: Callable[[StageRecipe], Any]) -> Callable[[StageRecipe, Recipe], Any]:
    """What SFTN's equations say beside a temperature; at 1 all readings agree."""
    return lambda stage, recipe: value(stage) if stage.sftn and stage.sftn.temperature != 1 else NOT_PRINTED


def _sftn_rate(stage: StageRecipe, recipe: Recipe) -> Any:
    """The rate of Section 4.1: 0.01 "in ShuffleNet experiments", 0.05 in all others."""
    if stage.role == "teacher":
        together = stage.sftn is not None or stage.name in learning_together(recipe)
        partners = [stage.sftn.network] if stage.sftn else [one.network for one in recipe.of_role("student")]
        if not together:
            return NOT_PRINTED
        return 0.01 if any(name.startswith("Shuffle") for name in partners) else 0.05
    return 0.01 if stage.network.startswith("Shuffle") else 0.05


def _of_tfkd(value: Any, *, plain_cnn: Any = NOT_PRINTED) -> Callable[[StageRecipe, Recipe], Any]:
    return lambda stage, recipe: plain_cnn if stage.network == "tf_cnn" else value


def _eq_4(stage: StageRecipe, recipe: Recipe) -> Any:
    """Tf-KD's Eq. 4 and 10 are (1 - α) CE + α KL at τ, and `kd` multiplies KL by τ²."""
    kd = stage.settings["kd"]
    return (1 - kd.ce_weight) / kd.temperature**2


def _for(network: str, value: Any) -> Callable[[StageRecipe, Recipe], Any]:
    return lambda stage, recipe: value if stage.network == network else NOT_PRINTED


_SFTN = ("cifar100-sftn", "imagenet-sftn")
_SIMKD = ("cifar100-simkd", "imagenet-simkd")
_TFKD_CIFAR = ("cifar100-tfkd", "cifar100-dekd", "cifar10-tfkd")
_TFKD_SMALL = (*_TFKD_CIFAR, "tiny-tfkd", "tiny-dekd")
_CODE = "as in its code"

ROWS = (
    Row(_SFTN, "sftn.kl", _always("reverse"), "as in the loss of the code that it is built on"),
    Row(_SFTN, "sftn.ce_temperature", _softened(lambda stage: stage.sftn and stage.sftn.temperature), "CE is at 1"),
    Row(_SFTN, "sftn.tau_squared", _softened(lambda stage: False), "as in other distillation losses"),
    Row(("cifar100-sftn",), "training.lr", _sftn_rate, "CRD's code has 0.01 for ShuffleNet and MobileNet students"),
    Row(_SIMKD, "training.nesterov", _always(True), _CODE),
    Row(_TFKD_CIFAR, "training.batch_size", _of_tfkd(128, plain_cnn=128), _CODE),
    Row(_TFKD_CIFAR, "training.lr", _of_tfkd(0.1, plain_cnn=0.01), _CODE),
    Row(_TFKD_CIFAR, "training.weight_decay", _of_tfkd(5e-4, plain_cnn=5e-4), _CODE),
    Row(_TFKD_SMALL, "settings.kd.kl_weight", _eq_4, "times τ² and divided by the classes, as in its code"),
    Row(("cifar100-tfkd",), "settings.tfkd_self.multiplier", _always(1.0), _CODE),
    Row(("cifar100-tfkd",), "settings.tfkd_self.arithmetic", _always("paper"), _CODE),
    Row(("cifar100-tfkd",), "settings.tfkd_self.alpha", _for("tf_densenet121", 0.95), _CODE),
    Row(("cifar100-tfkd",), "settings.tfkd_reg.multiplier", _always(1.0), _CODE),
    Row(("cifar100-tfkd",), "settings.tfkd_reg.arithmetic", _always("paper"), _CODE),
    Row(("cifar100-tfkd",), "settings.tfkd_reg.temperature", _for("tf_shufflenet_v2", 20.0), _CODE),
)
