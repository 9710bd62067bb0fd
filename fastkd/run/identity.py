"""What the numbers of a run's stage depend on."""

from dataclasses import dataclass
from typing import Any, Self

from fastkd.data import Augmentation, DataSet
from fastkd.recipes import format_1
from fastkd.recipes.planned import PlannedStage
from fastkd.recipes.recipe import FORMAT, Recipe
from fastkd.support.plain import to_plain, with_defaults
from fastkd.training.identity import Identity

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class DataUsed:
    """The part of a recipe that decides which pixels are trained on."""

    data: str
    image_size: int
    augmentation: Augmentation
    mean: Triple
    std: Triple
    limit_train: int | None
    classes: tuple[str, ...]
    """In the order of their labels."""

    @classmethod
    def by(cls, recipe: Recipe, data: DataSet) -> Self:
        of_data = {"mean": recipe.mean or data.mean, "std": recipe.std or data.std, "classes": data.classes}
        return cls(
            **{name: getattr(recipe, name) for name in cls.__dataclass_fields__ if name not in of_data}, **of_data
        )


def stage_identity(recipe: Recipe, planned: PlannedStage, seed: int, images: DataSet) -> Identity:
    """The identity of a stage; a file that was written before a setting existed is read as having its default.

    What a data set decided on was not written by fastkd 0.1, and is not compared then.
    """
    data = DataUsed.by(recipe, images)
    own = {"kind": planned.kind, **to_plain(planned)}
    plain = {"format": FORMAT, "stage": own, "data": to_plain(data), "seed": seed}

    def today(then: dict[str, Any]) -> dict[str, Any]:
        then = format_1.identity(then)
        known = then.get("data")
        if isinstance(known, dict) and "classes" not in known:
            then = then | {"data": known | {name: to_plain(getattr(data, name)) for name in ("mean", "std", "classes")}}
        return with_defaults(then, {"stage": planned, "data": data})

    return Identity(plain, today)
