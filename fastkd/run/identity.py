"""What the numbers of a run's stage depend on."""

from dataclasses import dataclass
from typing import Any, Self

from fastkd.data import Augmentation, DataSet
from fastkd.recipes import format_1
from fastkd.recipes.planned import PlannedDistillation, PlannedStage
from fastkd.recipes.recipe import FORMAT, TEACHING, Recipe
from fastkd.stored import Storing
from fastkd.support.plain import to_plain, with_defaults
from fastkd.training.identity import Identity

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class DataUsed:
    """The part of a recipe that decides which pixels are trained on."""

    data: str
    """The name of the data set, wherever it lies."""
    image_size: int
    augmentation: Augmentation
    mean: Triple
    std: Triple
    limit_train: int | None
    classes: tuple[str, ...]
    """In the order of their labels."""

    data_seed: int | None = None
    """None: the seed is that of the data, too."""

    @classmethod
    def by(cls, recipe: Recipe, data: DataSet, seed: int) -> Self:
        of_data: dict[str, Any] = {
            "data": recipe.data.partition(":")[0],
            "mean": recipe.mean or data.mean,
            "std": recipe.std or data.std,
            "classes": data.classes,
        }
        of_data["data_seed"] = None if recipe.data_seed == seed else recipe.data_seed
        return cls(
            **{name: getattr(recipe, name) for name in cls.__dataclass_fields__ if name not in of_data}, **of_data
        )


@dataclass(frozen=True)
class StoreUsed:
    """The part of a recipe that decides how exactly a stored teacher says what the teacher itself does."""

    store_type: str = Storing.store_type
    store_top: int | None = None
    store_epochs: int | None = None

    @classmethod
    def by(cls, recipe: Recipe, planned: PlannedStage) -> Self:
        """Where nothing is stored, or nothing is lost by it, it is as if the teacher itself taught."""
        storing = recipe.storing
        if storing.teacher_outputs is None or planned.role in TEACHING:
            return cls()
        if not isinstance(planned, PlannedDistillation):
            return cls(store_epochs=storing.store_epochs)
        return cls(storing.store_type, storing.store_top, storing.store_epochs)


def stage_identity(recipe: Recipe, planned: PlannedStage, seed: int, images: DataSet) -> Identity:
    """The identity of a stage; a file that was written before a setting existed is read as having its default.

    What a data set decided on was not written by fastkd 0.1, and is not compared then.
    """
    data, store = DataUsed.by(recipe, images, seed), StoreUsed.by(recipe, planned)
    own = _without_place({"kind": planned.kind, **to_plain(planned)})
    plain = {"format": FORMAT, "stage": own, "data": to_plain(data), "store": to_plain(store), "seed": seed}

    def today(then: dict[str, Any]) -> dict[str, Any]:
        then = {"store": {}} | format_1.identity(then)
        if isinstance(then.get("stage"), dict):
            then = then | {"stage": _without_place(then["stage"])}
        known = then.get("data")
        if isinstance(known, dict) and isinstance(known.get("data"), str):  # with its path, as it once was written
            known = known | {"data": known["data"].partition(":")[0]}
            then = then | {"data": known}
        if isinstance(known, dict) and "classes" not in known:
            then = then | {"data": known | {name: to_plain(getattr(data, name)) for name in ("mean", "std", "classes")}}
        found = with_defaults(then, {"stage": planned, "data": data, "store": store})
        return found | {"stage": _without_place(found["stage"])} if isinstance(found.get("stage"), dict) else found

    return Identity(plain, today)


def _without_place(stage: dict[str, Any]) -> dict[str, Any]:
    """A stage without the place of the file that it is loaded from, where a digest says which file that is."""
    return {name: value for name, value in stage.items() if name != "file" or not stage.get("sha256")}
