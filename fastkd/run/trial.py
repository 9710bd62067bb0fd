"""What is known of a training before it begins: the sizes of its images and batches, tried on what cannot take all."""

from typing import NamedTuple

import torch

from fastkd.data.base import Batch
from fastkd.data.order import Order
from fastkd.networks.base import Network, output_shapes
from fastkd.networks.uncut import Lacks
from fastkd.recipes.planned import PlannedDataFree, PlannedTraining
from fastkd.run.job import Job
from fastkd.support import distributed
from fastkd.support.errors import UserError
from fastkd.support.words import counted
from fastkd.training.optimisation import Training
from fastkd.training.stages import Distill, Stage

FEW = 3
"""So many images, or fewer, may be too few for a BatchNorm or for relations between samples."""

_FEW_IMAGES = 4
"""So many images show what networks of others give."""


class Smallest(NamedTuple):
    """The smallest number of images that a training passes forward at once."""

    images: int
    where: str
    """What has so many: a subject without its verb."""
    mend: str
    """What to change, where they are too few."""


def smallest_pass(samples: int, training: Training, processes: int = 1) -> Smallest:
    """The smallest forward pass of an epoch, of one process and one part of a batch."""
    how = {"drop_last": training.drop_last, "world_size": processes, "shards": training.shards}
    order = Order(samples, training.batch_size, 0, **how)
    least, where = training.batch_size, f"a batch of {training.batch_size}"
    mend = "raise --batch-size"
    if order.steps * training.batch_size > samples:
        least = samples % training.batch_size
        where = f"the last batch of an epoch ({counted(samples, 'image')} in batches of {training.batch_size})"
        mend = "give --drop-last on, or another --batch-size"
    least //= training.shards or processes
    if training.shards:
        where, mend = f"a shard of {where}", f"{mend}, or lower --shards"
    if training.accumulate > 1 and least > 1:  # as `torch.tensor_split` divides it, without parts that are empty
        least = max(1, least // training.accumulate)
        where, mend = f"a part of {where}", f"{mend}, or lower --accumulate"
    return Smallest(least, where, mend)


def _smallest(planned: PlannedTraining, samples: int) -> Smallest:
    if not isinstance(planned, PlannedDataFree):
        return smallest_pass(samples, planned.training, distributed.world_size())
    whole = smallest_pass(planned.training.batch_size, planned.training)  # all its batches are
    if planned.synthesis.images < whole.images:
        return Smallest(planned.synthesis.images, "a round of the synthesis", "raise --synthesis.images")
    return whole


def refuse_image_size(planned: PlannedTraining, stage: Stage, image_size: int) -> None:
    """Raises UserError where one of the stage's networks leaves nothing of images of that size."""
    for name, network in {planned.network: stage.network, **stage.peers()}.items():
        try:
            output_shapes(network, image_size)
        except RuntimeError as error:
            raise UserError(f"{name} is not for images of {image_size} pixels: {_first_line(error)}") from error


def try_smallest_pass(planned: PlannedTraining, stage: Stage, job: Job) -> None:
    """Takes the smallest forward and backward pass of a stage that is thrown away afterwards, where it is a small one.

    Raises UserError where the stage cannot take so few images, or makes nothing finite of them.
    """
    labels = job.data.train.labels
    smallest = _smallest(planned, len(labels))
    if smallest.images > FEW:
        return
    count = smallest.images
    why = _failure(stage, _noise(stage, job, count))
    if why:
        has = f"{smallest.where} has {count} image{'s' * (count > 1)}"
        raise UserError(f"{planned.name}: {has}, too few for {_what(planned)} ({why}): {smallest.mend}")


def refuse_lacking(planned: PlannedTraining, stage: Stage, job: Job) -> None:
    """Passes a few images through a stage with networks of others: what these do not give is found by reading it.

    Raises UserError where something is read that a network does not give, or does not go together with another's.
    """
    networks = [module for module in stage.modules() if isinstance(module, Network)]
    networks += stage.teachers if isinstance(stage, Distill) else ()
    if all(network.remake is None for network in networks):
        return
    count = min(_FEW_IMAGES, len(job.data.train.labels))
    if isinstance(stage, Distill) and any(method.fixed_batch_size for method in stage.methods.values()):
        count = planned.training.images_at_once(distributed.world_size())
    why = _failure(stage, _noise(stage, job, count))
    if why:
        raise UserError(f"{planned.name}: {_what(planned)}: {why}")


def _noise(stage: Stage, job: Job, count: int) -> Batch:
    """A batch of noise, with the labels of the first training images."""
    size, zero = job.recipe.image_size, torch.zeros((), dtype=torch.int64)
    images = torch.randn(stage.views.count, count, 3, size, size)
    return Batch(images, job.data.train.labels[:count], torch.arange(count), zero, zero)


def _failure(stage: Stage, batch: Batch) -> str:
    """Why a stage cannot train on a batch; the empty string where it can."""
    stage.train()
    stage.begin_epoch(0)
    try:
        loss = stage(batch)
        total = torch.stack([loss.total, *loss.gated.values()]).sum()
        total.backward()
    except Lacks as lacks:
        return str(lacks)
    except UserError:
        raise
    except (RuntimeError, ValueError, IndexError) as error:
        return _first_line(error)
    gradients = [parameter.grad for parameter in stage.parameters() if parameter.grad is not None]
    finite = total.isfinite() and all(bool(gradient.isfinite().all()) for gradient in gradients)
    return "" if finite else "the loss or its gradient is not finite"


def _what(planned: PlannedTraining) -> str:
    method = getattr(planned, "method", "")
    return f"{planned.network} by {method}" if method else planned.network


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".")
