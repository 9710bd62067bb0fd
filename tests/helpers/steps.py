"""A training step on tiny digits, and how to compare two of them."""

from dataclasses import replace

import torch

from fastkd.data import RawBatch
from fastkd.run.builder import Builder
from fastkd.run.earlier import Earlier
from fastkd.training.compilation import compile_stage
from fastkd.training.execution import EVERYTHING_OFF
from fastkd.training.optimisation import build_optimizer
from fastkd.training.step import Step
from helpers.tiny import CPU, built_stages, job_of, tiny_recipe


class Streamed:
    """A loader that brings the pixels itself."""

    def __init__(self, loader, images):
        self.loader, self.images = loader, images
        self.steps, self.samples = loader.steps, loader.samples
        self.labels, self.classes = loader.labels, loader.classes

    def epoch(self, epoch, start=0):
        for raw in self.loader.epoch(epoch, start):
            yield RawBatch(raw.index, self.images[raw.index].unsqueeze(0))


def make_step(execution=EVERYTHING_OFF, network="resnet8", **training):
    """A supervised step on the tiny digits, and its raw batches."""
    job = job_of(tiny_recipe(), execution)
    builder = Builder(job, 0)
    settings = replace(job.course[-1].training, epochs=20, **training)
    planned = replace(job.course[-1], network=network, training=settings)
    stage, source = builder.stage(planned, Earlier(job.course)), builder.train_source(planned)
    optimizer = build_optimizer(stage, settings, CPU)
    step = Step(stage.train(), source.prepare, optimizer, settings, source.loader.steps, CPU, execution)
    step.loader = source.loader
    return step, list(source.loader.epoch(0))


def step_of_stage(name, execution=EVERYTHING_OFF, recipe=None, **training):
    """A step of a stage of the tiny recipe (teacher, student, control), and its raw batches. No teacher is trained."""
    recipe = recipe or tiny_recipe()
    builder, stages = built_stages(recipe, execution)
    planned = next(planned for planned in job_of(recipe, execution).course if planned.name == name)
    settings, stage = replace(planned.training, **training), stages[name].train()
    planned = replace(planned, training=settings)
    source = builder.train_source(planned, stage.views)
    optimizer = build_optimizer(stage, settings, CPU)
    step = Step(stage, source.prepare, optimizer, settings, source.loader.steps, CPU, execution)
    step.loader = source.loader
    return step, list(source.loader.epoch(0))


def weights(step):
    return {name: value.clone() for name, value in step.stage.state_dict().items()}


def eagerly(stage, mode):
    """Compiles with the backend that traces and guards but leaves the arithmetic alone."""
    compile_stage(stage, mode, "eager")


def close(found, expected, **tolerance):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, **tolerance)


def steps_of(step, epoch=0, start=0):
    """Trains on an epoch; how many steps were taken at a time."""
    return list(step.epoch_of(step.loader, epoch, start))
