"""Where batches come from: the table of data sets, and what a training needs of one."""

import dataclasses
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import nn

from fastkd.data.augment import Augmentation, Format, Normalise, ResidentImages, StreamedImages
from fastkd.data.base import (
    FOUR_ROTATIONS,
    ONE_VIEW,
    Batch,
    DataSet,
    FileSplit,
    Loader,
    RawBatch,
    Reading,
    Split,
    Views,
)
from fastkd.data.cifar import cifar10, cifar100, cifar100c
from fastkd.data.digits import digits
from fastkd.data.folder import imagefolder, load_resident, tiny_imagenet
from fastkd.data.order import InOrder, Order
from fastkd.data.resident import ResidentLoader
from fastkd.data.stl10 import stl10
from fastkd.data.streaming import Plan, StreamingLoader
from fastkd.support import environment
from fastkd.support.errors import UserError, nearest

__all__ = [
    "DATASETS",
    "FOLDERS",
    "FOUR_ROTATIONS",
    "ONE_VIEW",
    "Augmentation",
    "Batch",
    "DataSet",
    "FileSplit",
    "Format",
    "Loader",
    "RawBatch",
    "Reading",
    "Source",
    "Split",
    "Views",
    "evaluation_source",
    "is_resident",
    "keep_index",
    "open_dataset",
    "resolved_loader",
    "settled",
    "training_source",
]

BUNDLED: dict[str, Callable[[], DataSet]] = {"digits": digits}
HELD: dict[str, Callable[[str], DataSet]] = {
    "cifar10": cifar10,
    "cifar100": cifar100,
    "cifar100c": cifar100c,
    "stl10": stl10,
}
FOLDERS: dict[str, Callable[[str, Reading, Path | None], DataSet]] = {
    "tiny-imagenet": tiny_imagenet,
    "imagefolder": imagefolder,
}
DATASETS: dict[str, Callable[..., DataSet]] = {**BUNDLED, **HELD, **FOLDERS}
"""Those that come with fastkd, those that are read whole, and folders of image files."""

DALI_HINT = "pip install nvidia-dali-cuda130 (or nvidia-dali-cuda120, as your CUDA is)"


class Source(NamedTuple):
    """A loader, and the module that turns its raw batches into a `Batch` on the device."""

    loader: Loader
    prepare: nn.Module
    samples: int
    batch_size: int
    """Of this process; a batch can be smaller: the last one, or one that lost images that cannot be read."""


def open_dataset(
    spec: str,
    *,
    image_size: int | None,
    resident: bool,
    limit_train: int | None,
    threads: int,
    reading: Reading | None = None,
    cache: Path | None = None,
) -> DataSet:
    """The data set `NAME` or `NAME:PATH`.

    image_size: what images that are held as bytes must have; None: whatever they have.
    resident: image files are decoded now, to image_size; else they are read as they are needed.
    limit_train: keep so many training images, drawn evenly over the classes' order by a fixed seed.
    cache: folder that keeps what the scan of a folder found, where `reading` names none.
    """
    name, _, path = spec.partition(":")
    if name not in DATASETS:
        raise UserError(f"no data set {name!r}{nearest(name, DATASETS)}")
    if image_size is not None and image_size < 1:
        raise UserError(f"--image-size is at least 1, got {image_size}")
    reading = reading or Reading()
    if name in BUNDLED:
        if path:
            raise UserError(f"the {name} come with fastkd and take no path, got {path!r}")
        data = BUNDLED[name]()
    elif name in HELD:
        data = HELD[name](path)
    else:
        data = FOLDERS[name](path, reading, Path(reading.index_cache) if reading.index_cache else cache)
    train, test = data.train, data.test
    if limit_train is not None:
        train = _limited(train, limit_train)
    if resident:
        assert image_size is not None
        train, test = (
            load_resident(split, image_size, threads, data.failures) if isinstance(split, FileSplit) else split
            for split in (train, test)
        )
    for split in (train, test):
        if isinstance(split, Split) and image_size not in (None, split.images.shape[1]):
            raise UserError(f"{name} has images of {split.images.shape[1]} pixels, --image-size says {image_size}")
    return dataclasses.replace(data, train=train, test=test)


def training_source(
    data: DataSet,
    *,
    image_size: int,
    batch_size: int,
    augmentation: Augmentation,
    seed: int,
    drop_last: bool = True,
    views: Views = ONE_VIEW,
    workers: int = 0,
    loader: Literal["auto", "dali", "torchvision"] = "torchvision",
    device: torch.device | None = None,
    format: Format | None = None,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> Source:
    """Shuffled, augmented batches of the training split; batch_size is over all ranks."""
    samples = len(data.train.labels)
    if not samples:
        raise UserError(f"{data.name} has no training images: it is for evaluation")
    order = Order(samples, batch_size, seed, drop_last=drop_last, rank=rank, world_size=world_size)
    normalise = Normalise(mean or data.mean, std or data.std)
    if isinstance(data.train, Split):
        if augmentation.crop == "resized":
            raise UserError(f"random-resized crops need image files; {data.name} is held as bytes")
        prepare = ResidentImages(_on(device, data.train), normalise, augmentation, seed, views, format)
        return Source(ResidentLoader(data.train.labels, data.classes, order, device), prepare, samples, order.largest)
    plan = Plan(data.train, image_size, augmentation, views, seed)
    prepare = StreamedImages(data.train.labels, normalise, augmentation, seed, views, format)
    return Source(_file_loader(plan, data, order, loader, workers, device), prepare, samples, order.largest)


def evaluation_source(
    data: DataSet,
    *,
    image_size: int,
    batch_size: int,
    crop: Literal["pad", "resized"] = "resized",
    workers: int = 0,
    loader: Literal["auto", "dali", "torchvision"] = "torchvision",
    device: torch.device | None = None,
    format: Format | None = None,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> Source:
    """Every image of the test split once over all ranks, in order, without augmentation; batch_size is of each rank.

    crop: how the network was trained, which decides on what image files are resized to.
    """
    samples = len(data.test.labels)
    order = InOrder(samples, batch_size, rank=rank, world_size=world_size)
    normalise = Normalise(mean or data.mean, std or data.std)
    if isinstance(data.test, Split):
        prepare = ResidentImages(_on(device, data.test), normalise, None, format=format)
        return Source(ResidentLoader(data.test.labels, data.classes, order, device), prepare, samples, order.largest)
    plan = Plan(data.test, image_size, None, crop=crop)
    prepare = StreamedImages(data.test.labels, normalise, None, format=format)
    return Source(_file_loader(plan, data, order, loader, workers, device), prepare, samples, order.largest)


def resolved_loader(loader: Literal["auto", "dali", "torchvision"]) -> Literal["dali", "torchvision"]:
    """The loader that reads image files here."""
    installed = importlib.util.find_spec("nvidia") is not None and importlib.util.find_spec("nvidia.dali") is not None
    if loader == "dali" and not installed:
        raise UserError(f"--loader dali: DALI is not installed: {DALI_HINT}")
    if loader == "auto":
        return "dali" if installed else "torchvision"
    return loader


def is_resident(reading: Reading, crop: str) -> bool:
    """Whether image files are decoded once, to stay on the device."""
    return crop == "pad" if reading.resident is None else reading.resident


def settled(reading: Reading, data: str, crop: str) -> Reading:
    """With `auto` replaced, where files are streamed: a run that is resumed elsewhere must not change its pixels."""
    if data.partition(":")[0] not in FOLDERS or is_resident(reading, crop):
        return reading
    return dataclasses.replace(reading, loader=resolved_loader(reading.loader))


def keep_index(data: DataSet, folder: Path) -> None:
    """Puts what the scan of the data set found into the folder, for the next time it is opened."""
    for scan in data.scans:
        scan.keep(folder)


def _file_loader(
    plan: Plan,
    data: DataSet,
    order: Order | InOrder,
    loader: Literal["auto", "dali", "torchvision"],
    workers: int,
    device: torch.device | None,
) -> Loader:
    gpu = device is not None and device.type == "cuda"
    if resolved_loader(loader) == "torchvision":
        return StreamingLoader(plan, data.classes, order, data.failures, workers=workers, pin_memory=gpu)
    from fastkd.data.dali import DALILoader  # imports DALI

    threads = max(1, workers if workers else environment.cores())
    return DALILoader(plan, data.classes, order, data.failures, threads=threads, device=device)


def _on(device: torch.device | None, split: Split) -> Split:
    """Planes that follow each other are for the CPU; a GPU reads all colours of a pixel at once."""
    if device is None or device.type == "cpu":
        return split
    return Split(split.images.contiguous(), split.labels)


def _limited(split: Split | FileSplit, count: int) -> Split | FileSplit:
    samples = len(split.labels)
    if not 1 <= count <= samples:
        raise UserError(f"--limit-train is 1 to the {samples} training images there are, got {count}")
    return split.take(np.sort(np.random.Generator(np.random.Philox(0)).permutation(samples)[:count]))
