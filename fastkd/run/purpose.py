"""What a model is for: its classes in their order, and the images it was trained on; compared where it meets others."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from fastkd.data import DataSet
from fastkd.methods.reused import MeanOfClassifiers
from fastkd.networks.base import Network
from fastkd.recipes.recipe import Recipe
from fastkd.run.description import Description
from fastkd.support.errors import UserError


def purpose_of(recipe: Recipe, data: DataSet) -> dict[str, object]:
    """The fields of a `Description` that say what a network of this recipe is for."""
    return {
        "classes": data.classes if data.named else None,
        "mean": recipe.mean or data.mean,
        "std": recipe.std or data.std,
        "crop": recipe.augmentation.evaluated,
    }


def refuse_other_images(known: Description, ours: Description, where: Path) -> None:
    """Raises UserError for a teacher that was trained on images of another size, normalisation or crop.

    What its file does not say is not compared.
    """
    for name, words in (("image_size", "pixels a side"), ("mean", "mean"), ("std", "deviation"), ("crop", "crop")):
        then, now = getattr(_by_training(known), name), getattr(_by_training(ours), name)
        if then is not None and now is not None and not _alike(then, now):
            raise UserError(
                f"{where} was trained on other images than this run has, {words}: {then} there, {now} here; "
                "--any-images takes it all the same"
            )


def order_of(known: Description, data: DataSet, where: str | Path) -> list[int] | None:
    """For each class of the data its place among the model's classes; None where they are the same, or not known.

    The model may know more classes, all of them by name. Raises UserError where it lacks one, or where another number
    of them has no names.
    """
    named = known.classes is not None and data.named
    if known.num_classes != len(data.classes) and not (named and set(data.classes) <= set(known.classes or ())):
        hint = "" if known.classes is not None else "; --teacher-classes names those of a file that does not"
        raise UserError(f"{data.name} has {len(data.classes)} classes, {where} knows {known.num_classes}{hint}")
    if known.classes is None or not data.named or known.classes == data.classes:
        return None
    places = {name: place for place, name in enumerate(known.classes)}
    strangers = [name for name in data.classes if name not in places]
    if strangers:
        theirs = [name for name in known.classes if name not in data.classes]
        raise UserError(f"{where} knows other classes than {data.name}: {theirs[0]!r}, and not {strangers[0]!r}")
    return [places[name] for name in data.classes]


@torch.no_grad()
def reorder(network: Network, order: Sequence[int], where: str | Path) -> None:
    """Puts the network's logits into another order, in place: logit i is what logit order[i] was; others are dropped.

    Raises UserError for a classifier that is not a linear layer, or several layers that end in one.
    """
    last = network.last_layers()
    several = any(isinstance(part, MeanOfClassifiers) for part in network.modules())
    if several or not last or any(layer.out_features <= max(order) for layer in last):
        raise UserError(f"{where} has its classes in another order, and a classifier that cannot be reordered")
    for layer in last:
        for name, tensor in list(layer.named_parameters()):
            setattr(layer, name, nn.Parameter(tensor[list(order)].clone(), requires_grad=tensor.requires_grad))
        layer.out_features = len(order)


def _by_training(description: Description) -> Description:
    """The description as its training sees it: squeezed images are what a test alone makes."""
    return description._replace(crop="resized") if description.crop == "squeezed" else description


def _alike(one: object, other: object) -> bool:
    if isinstance(one, tuple) and isinstance(other, tuple):
        return all(math.isclose(a, b, abs_tol=1e-4) for a, b in zip(one, other, strict=True))
    return one == other
