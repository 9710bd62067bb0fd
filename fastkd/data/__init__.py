"""The table of data sets, and how one is opened. What a training makes of it is in `sources.py`."""

import dataclasses
from collections.abc import Callable
from inspect import signature
from pathlib import Path

import numpy as np
import torch
from torchvision.transforms.v2.functional import resize

from fastkd.data.augment import VERSION as AUGMENTATION_VERSION
from fastkd.data.augment import Augmentation, Format
from fastkd.data.base import (
    FOUR_ROTATIONS,
    ONE_VIEW,
    Batch,
    DataSet,
    FileSplit,
    Loader,
    Part,
    RawBatch,
    Reading,
    Split,
    Views,
    channel_statistics,
)
from fastkd.data.cifar import cifar10, cifar100, cifar100c
from fastkd.data.digits import digits
from fastkd.data.fingerprint import fingerprint
from fastkd.data.folder import imagefolder, load_resident, tiny_imagenet
from fastkd.data.resident import ResidentLoader
from fastkd.data.sources import Feeding, Source, evaluation_source, resolved_loader, training_source
from fastkd.data.stl10 import stl10
from fastkd.support.errors import UserError, nearest

__all__ = [
    "AUGMENTATION_VERSION",
    "DATASETS",
    "FOLDERS",
    "FOUR_ROTATIONS",
    "ONE_VIEW",
    "Augmentation",
    "Batch",
    "DataSet",
    "Feeding",
    "FileSplit",
    "Format",
    "Loader",
    "Part",
    "RawBatch",
    "Reading",
    "ResidentLoader",
    "Source",
    "Split",
    "Views",
    "channel_statistics",
    "divided",
    "evaluation_source",
    "fingerprint",
    "is_resident",
    "keep_index",
    "limited",
    "open_dataset",
    "resolved_loader",
    "settled",
    "training_source",
]

FOLDERS: dict[str, Callable[[str, Reading, Path | None], DataSet]] = {
    "tiny-imagenet": tiny_imagenet,
    "imagefolder": imagefolder,
}
"""The data sets that are folders of image files: `(path, how they are read, the scan's cache)`."""
DATASETS: dict[str, Callable[..., DataSet]] = {
    "digits": digits,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "cifar100c": cifar100c,
    "stl10": stl10,
    **FOLDERS,
}
"""Every data set: a function of the PATH in NAME:PATH, or of nothing where the set takes no path."""


def open_dataset(
    spec: str,
    *,
    image_size: int | None,
    resident: bool,
    limit_train: int | None,
    threads: int,
    reading: Reading | None = None,
    cache: Path | None = None,
    resized: bool = False,
) -> DataSet:
    """Opens the data set `NAME` or `NAME:PATH`. Raises UserError.

    image_size: side in pixels. Images that are held as bytes must have it already; None: whatever they have.
    resized: whether such images are resized to it, bilinear and antialiased, as a network of other images wants them.
    resident: whether image files are decoded now, to image_size; else they are read as they are needed.
    limit_train: so many training images are kept: a random choice by a fixed seed, in the order of the set.
    threads: how many decode at once.
    cache: the folder that keeps what the scan of image files found, unless `reading` names one.
    """
    name, _, path = spec.partition(":")
    if name not in DATASETS:
        raise UserError(f"no data set {name!r}{nearest(name, DATASETS)}")
    if image_size is not None and image_size < 1:
        raise UserError(f"--image-size is at least 1, got {image_size}")
    reading = reading or Reading()
    data = _opened(name, path, reading, cache)
    train, test = data.train, data.test
    if limit_train is not None:
        train = limited(train, limit_train)
    if resident:
        assert image_size is not None
        train, test = (
            load_resident(split, image_size, threads, data.failures) if isinstance(split, FileSplit) else split
            for split in (train, test)
        )
    if resized and image_size is not None:
        train, test = (_of_size(split, image_size) for split in (train, test))
    for split in (train, test):
        if isinstance(split, Split) and image_size not in (None, split.images.shape[1]):
            raise UserError(f"{name} has images of {split.images.shape[1]} pixels, --image-size says {image_size}")
    return dataclasses.replace(data, train=train, test=test)


def is_resident(reading: Reading, crop: str) -> bool:
    """Whether image files are decoded once, to stay on the device."""
    return crop == "pad" if reading.resident is None else reading.resident


def settled(reading: Reading, data: str, crop: str) -> Reading:
    """`reading` with the loader `auto` replaced by a definite one, if files are streamed.

    A run that is resumed on another machine must not change its pixels.
    """
    if data.partition(":")[0] not in FOLDERS or is_resident(reading, crop):
        return reading
    return dataclasses.replace(reading, loader=resolved_loader(reading.loader))


def keep_index(data: DataSet, folder: Path) -> None:
    """Puts what the scan of the data set found into the folder, for the next time it is opened."""
    for scan in data.scans:
        scan.keep(folder)


def _opened(name: str, path: str, reading: Reading, cache: Path | None) -> DataSet:
    function = DATASETS[name]
    if name in FOLDERS:
        return function(path, reading, reading.index_cache or cache)
    if signature(function).parameters:
        return function(path)
    if path:
        raise UserError(f"{name} takes no path, got {path!r}")
    return function()


def divided(data: DataSet, share: float) -> tuple[DataSet, DataSet]:
    """The data set without a share of its training images, and one that has those to test on.

    They are a random choice by a fixed seed, at least one image. Raises UserError where there is but one.
    """
    samples = len(data.train)
    if samples < 2:
        raise UserError(f"{data.name} has too few training images to hold some out: at least 2, got {samples}")
    count = min(max(1, round(share * samples)), samples - 1)
    chosen = np.random.Generator(np.random.Philox(1)).permutation(samples)
    train, rest = data.train.take(np.sort(chosen[count:])), data.train.take(np.sort(chosen[:count]))
    return dataclasses.replace(data, train=train), dataclasses.replace(data, test=rest)


_AT_ONCE = 1_000


def _of_size(split: Split | FileSplit, size: int) -> Split | FileSplit:
    """The split with images of that size, where it holds them as bytes."""
    if not isinstance(split, Split) or split.images.shape[1] == size:
        return split
    parts = split.images.movedim(-1, 1).split(_AT_ONCE)
    planes = torch.cat([resize(part, [size, size], antialias=True) for part in parts])
    return Split(planes.movedim(1, -1), split.labels)


def limited(split: Split | FileSplit, count: int) -> Split | FileSplit:
    """So many images of a split: a random choice by a fixed seed, in the order of the set."""
    samples = len(split.labels)
    if not 1 <= count <= samples:
        raise UserError(f"--limit-train is 1 to the {samples} training images there are, got {count}")
    return split.take(np.sort(np.random.Generator(np.random.Philox(0)).permutation(samples)[:count]))
