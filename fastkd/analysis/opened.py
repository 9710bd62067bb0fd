"""The networks of a finished run and the images they are tested on, opened."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

import torch

from fastkd.data import Batch, DataSet, Feeding, Source, evaluation_source, limited, open_dataset
from fastkd.networks.base import Network
from fastkd.recipes.recipe import Recipe
from fastkd.run import load_network, open_data, open_run
from fastkd.run.job import EVALUATION_BATCH, Job
from fastkd.run.purpose import order_of, reorder
from fastkd.run.weights import describe, find_weights
from fastkd.support import environment
from fastkd.training.evaluation import batches
from fastkd.training.execution import Execution

SplitName = Literal["train", "test"]


@dataclass(frozen=True)
class Opened:
    """Networks of a run in eval mode, by their stages' names, and data for them."""

    folder: Path
    recipe: Recipe
    data: DataSet
    networks: dict[str, Network]
    device: torch.device
    split: SplitName = "test"

    @classmethod
    def of(
        cls,
        folder: Path,
        device: torch.device,
        *,
        data: str = "",
        names: tuple[str, ...] = (),
        split: SplitName = "test",
    ) -> Self:
        """The networks of a run folder, and its data or others with the same classes.

        data: NAME:PATH; empty: the run's own. names: stages; none: all. split: of the training images those that the
        run learned from. Classes in another order are mapped by name.
        """
        recipe = open_run(folder)
        recipe = normalising_as_in_training(replace(recipe, data=data) if data else recipe, folder)
        environment.set_threads(recipe.threads)
        images = open_data(recipe if split == "train" else replace(recipe, limit_train=None, validation=None), folder)
        wanted = names or tuple(stage.name for stage in recipe.stages)
        found = {name: _in_order(folder, name, images).to(device) for name in wanted}
        return cls(folder, recipe, images, found, device, split)

    def batches(self) -> Iterator[Batch]:
        """Every image once, in order, without augmentation."""
        with torch.no_grad():
            yield from batches(plain_source(self.recipe, self.data, self.device, self.split), self.device)


def plain_source(recipe: Recipe, data: DataSet, device: torch.device, split: SplitName = "test") -> Source:
    """Every image of a split once, in order, normalised as the recipe says and without augmentation."""
    shown = data if split == "test" else replace(data, test=data.train, parts=())
    how = {"batch_size": EVALUATION_BATCH, "crop": recipe.augmentation.evaluated}
    source = evaluation_source(shown, feeding_of(recipe, shown, device), **how)
    source.prepare.to(device)
    return source


def feeding_of(recipe: Recipe, data: DataSet, device: torch.device) -> Feeding:
    """How the recipe's images reach the device."""
    # What is trained does not matter here, and may be code that is not to be imported.
    alone = replace(recipe, stages=(), keep_epochs=(), execution=Execution(channels_last="off"))
    return Job.of(alone, data, device).feeding


def open_resized(recipe: Recipe, data: str, *, limit_train: int | None = None) -> DataSet:
    """Another data set, with whatever classes, at the size of the recipe's images.

    data: NAME:PATH. limit_train: so many training images are kept, if there are more.
    """
    how = {"resident": True, "limit_train": None, "threads": environment.cores(), "reading": recipe.reading}
    found = open_dataset(data, image_size=recipe.image_size, resized=True, **how)
    if limit_train is None or len(found.train) <= limit_train:
        return found
    return replace(found, train=limited(found.train, limit_train))


def normalising_as_in_training(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with the mean and deviation that its networks were trained with, whatever the data's own are."""
    trained = [stage.name for stage in recipe.stages if stage.training is not None]
    known = describe(find_weights(str(folder), trained[0])) if trained else None
    if known is None or known.mean is None or known.std is None:
        return recipe
    return replace(recipe, mean=known.mean, std=known.std)


def _in_order(folder: Path, name: str, images: DataSet) -> Network:
    """The network of a stage, with its logits in the order of the classes of the images."""
    file = find_weights(str(folder), name)
    known = describe(file)
    order = order_of(known, images, f"the {name} of {folder}") if known is not None else None
    network = load_network(folder, name)
    if order is not None:
        print(f"the {name} of {folder} has its classes in another order: mapped by name", file=sys.stderr)
        reorder(network, order, file)
    return network
