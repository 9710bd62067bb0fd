"""Where batches come from: the table of data sets, and what a training needs of one."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from fastkd.data.augment import Augmentation, Normalise, ResidentImages
from fastkd.data.base import Batch, DataSet, FileSplit, Loader, RawBatch, Split
from fastkd.data.cifar import cifar10, cifar100
from fastkd.data.digits import digits
from fastkd.data.folder import imagefolder, load_resident
from fastkd.data.order import InOrder, Order
from fastkd.data.resident import ResidentLoader
from fastkd.data.streaming import StreamedImages, StreamingLoader
from fastkd.errors import UserError, nearest

__all__ = [
    "DATASETS",
    "Augmentation",
    "Batch",
    "DataSet",
    "FileSplit",
    "Loader",
    "RawBatch",
    "Source",
    "Split",
    "evaluation_source",
    "open_dataset",
    "training_source",
]

DATASETS: dict[str, Callable[..., DataSet]] = {
    "digits": digits,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "imagefolder": imagefolder,
}


class Source(NamedTuple):
    """A loader, and the module that turns its raw batches into a `Batch` on the device."""

    loader: Loader
    prepare: nn.Module
    samples: int


def open_dataset(spec: str, *, image_size: int, resident: bool, limit_train: int | None, threads: int) -> DataSet:
    """The data set `NAME` or `NAME:PATH`.

    resident: image files are decoded now, to image_size; else they are read as they are needed.
    limit_train: keep so many training images, drawn evenly over the classes' order by a fixed seed.
    """
    name, _, path = spec.partition(":")
    if name not in DATASETS:
        raise UserError(f"no data set {name!r}{nearest(name, DATASETS)}")
    if DATASETS[name] is digits:
        if path:
            raise UserError(f"the digits come with fastkd and take no path, got {path!r}")
        data = digits()
    else:
        data = DATASETS[name](path)
    train, test = data.train, data.test
    if limit_train is not None:
        train = _limited(train, limit_train)
    if resident:
        train, test = (
            load_resident(split, image_size, threads) if isinstance(split, FileSplit) else split
            for split in (train, test)
        )
    for split in (train, test):
        if isinstance(split, Split) and split.images.shape[1] != image_size:
            raise UserError(f"{name} has images of {split.images.shape[1]} pixels, --image-size says {image_size}")
    return DataSet(name=data.name, train=train, test=test, classes=data.classes, mean=data.mean, std=data.std)


def training_source(
    data: DataSet,
    *,
    image_size: int,
    batch_size: int,
    augmentation: Augmentation,
    seed: int,
    drop_last: bool = True,
    workers: int = 0,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> Source:
    """Shuffled, augmented batches of the training split."""
    samples = len(data.train.labels)
    order = Order(samples, batch_size, seed, drop_last=drop_last, rank=rank, world_size=world_size)
    normalise = Normalise(mean or data.mean, std or data.std)
    if isinstance(data.train, Split):
        if augmentation.crop == "resized":
            raise UserError(f"random-resized crops need image files; {data.name} is held as bytes")
        return Source(ResidentLoader(order), ResidentImages(data.train, normalise, augmentation, seed), samples)
    loader = StreamingLoader(data.train, order, image_size, augmentation, seed=seed, workers=workers)
    return Source(loader, StreamedImages(data.train.labels, normalise, augmentation, seed), samples)


def evaluation_source(
    data: DataSet,
    *,
    image_size: int,
    batch_size: int,
    workers: int = 0,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> Source:
    """Every image of the test split once over all ranks, in order, without augmentation."""
    samples = len(data.test.labels)
    order = InOrder(samples, batch_size, rank=rank, world_size=world_size)
    normalise = Normalise(mean or data.mean, std or data.std)
    if isinstance(data.test, Split):
        return Source(ResidentLoader(order), ResidentImages(data.test, normalise, None), samples)
    loader = StreamingLoader(data.test, order, image_size, None, workers=workers)
    return Source(loader, StreamedImages(data.test.labels, normalise, None), samples)


def _limited(split: Split | FileSplit, count: int) -> Split | FileSplit:
    samples = len(split.labels)
    if not 1 <= count <= samples:
        raise UserError(f"--limit-train is 1 to the {samples} training images there are, got {count}")
    kept = torch.from_numpy(np.sort(np.random.Generator(np.random.Philox(0)).permutation(samples)[:count]))
    if isinstance(split, Split):
        return Split(split.images[kept], split.labels[kept])
    return FileSplit(tuple(split.paths[place] for place in kept.tolist()), split.labels[kept])
