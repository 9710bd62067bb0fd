"""A recipe with all that follows from it on this machine: resolved once, and handed to whoever carries it out."""

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch

from fastkd.data import DataSet, Feeding, Format, Source, evaluation_source, fingerprint, is_resident, open_dataset
from fastkd.recipes.course import Course, course
from fastkd.recipes.recipe import Recipe
from fastkd.run.weights import WeightsFiles
from fastkd.support import distributed, environment
from fastkd.support.display import Display
from fastkd.training.execution import EVERYTHING_OFF, Resolved, resolve, set_up

EVALUATION_BATCH = 256


@dataclass(frozen=True)
class Job:
    """What a run is carried out with, whatever its seed."""

    recipe: Recipe
    course: Course
    data: DataSet
    device: torch.device
    execution: Resolved
    why_off: str
    """Why something is off that could make steps fast; "" where nothing is."""
    files: WeightsFiles
    """The files that teachers are loaded from."""

    @classmethod
    def of(cls, recipe: Recipe, data: DataSet, device: torch.device, files: WeightsFiles | None = None) -> Self:
        execution, why_off = resolve(recipe.execution, device, distributed.world_size())
        return cls(recipe, course(recipe), data, device, execution, why_off, files or WeightsFiles())

    def plainly_on_the_cpu(self) -> Self:
        """The same job with everything off, for building stages that are thrown away."""
        return replace(self, device=torch.device("cpu"), execution=EVERYTHING_OFF)

    def set_up(self) -> None:
        """Sets this process's threads, and torch's switches."""
        environment.set_threads(self.recipe.threads, distributed.local_processes())
        set_up(self.execution, self.device)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A digest of the training images and labels."""
        return fingerprint(self.data)

    @property
    def feeding(self) -> Feeding:
        recipe = self.recipe
        return Feeding(
            image_size=recipe.image_size,
            device=self.device,
            format=Format(channels_last=self.execution.channels_last),
            mean=recipe.mean,
            std=recipe.std,
            loader=recipe.reading.loader,
            workers=recipe.reading.decoders(distributed.local_processes()),
            rank=distributed.rank(),
            world_size=distributed.world_size(),
        )

    def test_source(self) -> Source:
        """The test images, prepared on the job's device."""
        return self._evaluating(self.data)

    def watching_source(self) -> Source:
        """The images that a training is watched by: those kept for validation where there are some, else the test's."""
        watched = self.data.validation
        return self._evaluating(self.data if watched is None else replace(self.data, test=watched))

    def _evaluating(self, data: DataSet) -> Source:
        crop = self.recipe.augmentation.evaluated
        source = evaluation_source(data, self.feeding, batch_size=EVALUATION_BATCH, crop=crop)
        source.prepare.to(self.device)
        return source


def open_data(recipe: Recipe, folder: Path | None = None) -> DataSet:
    """The data set of a recipe; folder: the run's, if there is one, which keeps what the scan of image files found."""
    return open_dataset(
        recipe.data,
        image_size=recipe.image_size,
        resident=is_resident(recipe.reading, recipe.augmentation.crop),
        limit_train=recipe.limit_train,
        validation=recipe.validation,
        threads=environment.cores(),
        reading=recipe.reading,
        cache=folder,
    )


def tell_of(data: DataSet, display: Display) -> None:
    """Shows what is to be said of the data now, and later what could not be read."""
    for note in data.notes:
        display.note(f"data  {note}")
    data.failures.report = lambda line: display.note(f"data  {line}")
