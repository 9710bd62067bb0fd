"""What a training needs of a data set: loaders, and the modules that turn their raw batches into a `Batch`."""

import dataclasses
import importlib.util
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import nn

from fastkd.data.augment import Augmentation, Format, Normalise, Prepare, ResidentImages, StreamedImages
from fastkd.data.base import ONE_VIEW, DataSet, Loader, Split, Views
from fastkd.data.order import InOrder, Order
from fastkd.data.resident import ResidentLoader
from fastkd.data.streaming import PixelPlan, StreamingLoader
from fastkd.support import environment
from fastkd.support.errors import UserError

DALI_HINT = "pip install nvidia-dali-cuda130 (or nvidia-dali-cuda120, as your CUDA is)"


@dataclass(frozen=True, kw_only=True)
class Feeding:
    """How batches reach the device, whatever they are used for."""

    image_size: int
    """Side of the images in pixels."""
    device: torch.device | None = None
    """Where the batches go; None: the CPU."""
    format: Format = dataclasses.field(default_factory=Format)
    mean: tuple[float, float, float] | None = None
    """Mean of the channels, where white is 1; None: the data set's own."""
    std: tuple[float, float, float] | None = None
    """Standard deviation of the channels, likewise."""
    loader: Literal["auto", "dali", "torchvision"] = "torchvision"
    """Who decodes image files."""
    workers: int = 0
    """Processes (torchvision) or threads (DALI) that decode; 0: this process itself (torchvision), all cores (DALI)."""
    rank: int = 0
    world_size: int = 1


class Source(NamedTuple):
    """A loader, and the module that turns its raw batches into a `Batch` on the device."""

    loader: Loader
    prepare: nn.Module
    samples: int
    """Images of the split, over all ranks."""
    batch_size: int
    """Images in a batch of this process, at most: the last batch may be smaller, or one that lost unreadable images."""


def training_source(
    data: DataSet,
    feeding: Feeding,
    *,
    batch_size: int,
    augmentation: Augmentation,
    seed: int,
    drop_last: bool = True,
    views: Views = ONE_VIEW,
    distinct_epochs: int | None = None,
    shards: int | None = None,
) -> Source:
    """Shuffled, augmented batches of the training split; batch_size is over all ranks.

    shards: those that a batch is taken in, if they are not one for each rank.
    distinct_epochs: after so many epochs their crops, flips and angles come again, in another order; None: never.
    """
    samples = len(data.train.labels)
    if not samples:
        raise UserError(f"{data.name} has no training images: it is for evaluation")
    how = {"drop_last": drop_last, "rank": feeding.rank, "world_size": feeding.world_size}
    mixed = bool(augmentation.mixup or augmentation.cutmix)
    order = Order(samples, batch_size, seed, **how, mixed=mixed, shards=shards)
    normalise = _normalise(data, feeding)
    if isinstance(data.train, Split):
        if augmentation.crop == "resized":
            raise UserError(f"random-resized crops need image files; {data.name} is held as bytes")
        split = _on(feeding.device, data.train)
        prepare = ResidentImages(split, normalise, augmentation, seed, views, feeding.format, distinct_epochs)
        return _resident(data, split, order, feeding, prepare)
    plan = PixelPlan(data.train, feeding.image_size, augmentation, views, seed, distinct_epochs=distinct_epochs)
    how = (augmentation, seed, views, feeding.format, distinct_epochs)
    prepare = StreamedImages(data.train.labels, normalise, *how)
    return Source(_file_loader(plan, data, order, feeding), prepare, samples, order.largest)


def evaluation_source(
    data: DataSet, feeding: Feeding, *, batch_size: int, crop: Literal["pad", "resized", "squeezed"] = "resized"
) -> Source:
    """Every image of the test split once over all ranks, in order, without augmentation.

    batch_size: that of each rank.
    crop: `Augmentation.evaluated` of the network's training, which decides on how image files are resized.
    """
    samples = len(data.test.labels)
    order = InOrder(samples, batch_size, rank=feeding.rank, world_size=feeding.world_size)
    normalise = _normalise(data, feeding)
    if isinstance(data.test, Split):
        split = _on(feeding.device, data.test)
        prepare = ResidentImages(split, normalise, None, format=feeding.format)
        return _resident(data, split, order, feeding, prepare)
    plan = PixelPlan(data.test, feeding.image_size, None, crop=crop)
    prepare = StreamedImages(data.test.labels, normalise, None, format=feeding.format)
    return Source(_file_loader(plan, data, order, feeding), prepare, samples, order.largest)


def resolved_loader(loader: Literal["auto", "dali", "torchvision"]) -> Literal["dali", "torchvision"]:
    """The loader that reads image files on this machine. Raises UserError for DALI where it is not installed."""
    installed = importlib.util.find_spec("nvidia") is not None and importlib.util.find_spec("nvidia.dali") is not None
    if loader == "dali" and not installed:
        raise UserError(f"--loader dali: DALI is not installed: {DALI_HINT}")
    if loader == "auto":
        return "dali" if installed else "torchvision"
    return loader


def _normalise(data: DataSet, feeding: Feeding) -> Normalise:
    return Normalise(feeding.mean or data.mean, feeding.std or data.std)


def _resident(data: DataSet, split: Split, order: Order | InOrder, feeding: Feeding, prepare: Prepare) -> Source:
    loader = ResidentLoader(split.labels, data.classes, order, feeding.device)
    return Source(loader, prepare, order.samples, order.largest)


def _file_loader(plan: PixelPlan, data: DataSet, order: Order | InOrder, feeding: Feeding) -> Loader:
    device, workers = feeding.device, feeding.workers
    gpu = device is not None and device.type == "cuda"
    if resolved_loader(feeding.loader) == "torchvision":
        return StreamingLoader(plan, data.classes, order, data.failures, workers=workers, pin_memory=gpu)
    from fastkd.data.dali import DALILoader  # imports DALI

    threads = max(1, workers if workers else environment.cores())
    return DALILoader(plan, data.classes, order, data.failures, threads=threads, device=device)


def _on(device: torch.device | None, split: Split) -> Split:
    """The split as the device reads it best: planes that follow each other suit a CPU, whole pixels a GPU."""
    if device is None or device.type == "cpu":
        return split
    return Split(split.images.contiguous(), split.labels)
