"""What the numbers of a run's stage depend on."""

from dataclasses import dataclass
from typing import Any, Self

from fastkd.data.augment import Augmentation
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
    mean: Triple | None
    std: Triple | None
    limit_train: int | None

    @classmethod
    def by(cls, recipe: Recipe) -> Self:
        return cls(**{name: getattr(recipe, name) for name in cls.__dataclass_fields__})


def stage_identity(recipe: Recipe, planned: PlannedStage, seed: int) -> Identity:
    """The identity of a stage; a file that was written before a setting existed is read as having its default."""
    data = DataUsed.by(recipe)
    own = {"kind": planned.kind, **to_plain(planned)}
    plain = {"format": FORMAT, "stage": own, "data": to_plain(data), "seed": seed}

    def today(then: dict[str, Any]) -> dict[str, Any]:
        return with_defaults(format_1.identity(then), {"stage": planned, "data": data})

    return Identity(plain, today)
