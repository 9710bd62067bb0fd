"""The networks of a finished run, tested once more: on its own data, or on others with the same classes."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fastkd.data import DataSet, with_absolute_path
from fastkd.networks.base import Network
from fastkd.recipes.recipe import Recipe
from fastkd.run.folder import open_run
from fastkd.run.job import Job, open_data
from fastkd.run.purpose import order_of, reorder
from fastkd.run.run import load_network
from fastkd.run.weights import describe, find_weights
from fastkd.support import environment
from fastkd.training.evaluation import accuracies, similarity
from fastkd.training.execution import Execution


def evaluated(folder: Path, data: str, device: torch.device) -> dict[str, dict[str, Any]]:
    """{stage: {"network", "top1", "top5", "samples" and, for all but the teacher, "kl", "cka", "agreement"}}."""
    recipe = open_run(folder)
    if data:
        recipe = replace(recipe, data=with_absolute_path(data))
    recipe = normalising_as_in_training(recipe, folder)
    environment.set_threads(recipe.threads)
    images = open_data(replace(recipe, limit_train=None, validation=None), folder)
    # What it was taught by does not matter here, and may be code that is not to be imported.
    stages = tuple(replace(stage, method="", settings={}, teachers=()) for stage in recipe.stages)
    tested = replace(recipe, stages=stages, execution=Execution(channels_last="off"))
    source = Job.of(tested, images, device).test_source()
    loaded = {stage.name: _loaded(folder, stage.name, images).to(device) for stage in recipe.stages}
    counts = accuracies(lambda batch: {name: network(batch).logits for name, network in loaded.items()}, source, device)
    measured: dict[str, dict[str, Any]] = {}
    for stage in recipe.stages:
        measured[stage.name] = {"network": stage.network, **counts[stage.name]}
        if stage.name != "teacher" and "teacher" in loaded:
            measured[stage.name] |= similarity(loaded["teacher"], loaded[stage.name], source, device)
    return measured


def normalising_as_in_training(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with the mean and deviation that its networks were trained with, whatever the data's own are."""
    trained = [stage.name for stage in recipe.stages if stage.training is not None]
    known = describe(find_weights(str(folder), trained[0])) if trained else None
    if known is None or known.mean is None or known.std is None:
        return recipe
    return replace(recipe, mean=known.mean, std=known.std)


def _loaded(folder: Path, name: str, images: DataSet) -> Network:
    """The network of a stage, with its logits in the order of the classes of the images."""
    file = find_weights(str(folder), name)
    known = describe(file)
    order = order_of(known, images, f"the {name} of {folder}") if known is not None else None
    network = load_network(folder, name)
    if order is not None:
        print(f"the {name} of {folder} has its classes in another order: mapped by name", file=sys.stderr)
        reorder(network, order, file)
    return network
