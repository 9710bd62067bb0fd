"""The table of data sets, and how one is opened. What a training makes of it is in `sources.py`."""

import dataclasses
import importlib.util
import sys
from collections.abc import Callable
from inspect import signature
from pathlib import Path

import numpy as np
import torch
from torchvision.transforms.v2.functional import resize

from fastkd.data.arrow import saved_data_set
from fastkd.data.assembled import stratified
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
from fastkd.data.csv_list import csv_list
from fastkd.data.digits import digits
from fastkd.data.fingerprint import fingerprint
from fastkd.data.folder import imagefolder, load_resident, tiny_imagenet
from fastkd.data.objects import data_of_object, data_set_from, give_data, import_data, is_given, is_imported
from fastkd.data.resident import ResidentLoader
from fastkd.data.sources import Feeding, Source, evaluation_source, resolved_loader, training_source
from fastkd.data.stl10 import stl10
from fastkd.data.tar import tar_shards
from fastkd.support.errors import UserError, nearest
from fastkd.support.once import made_once
from fastkd.support.paths import expanded

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
    "data_set_from",
    "divided",
    "evaluation_source",
    "find_dataset",
    "fingerprint",
    "give_data",
    "is_import_path",
    "is_resident",
    "keep_index",
    "limited",
    "named_by_a_person",
    "open_dataset",
    "resolved_loader",
    "settled",
    "stays_in_files",
    "training_source",
    "with_absolute_path",
]

FOLDERS: dict[str, Callable[[str, Reading, Path | None], DataSet]] = {
    "tiny-imagenet": tiny_imagenet,
    "imagefolder": imagefolder,
    "csv": csv_list,
    "tar": tar_shards,
    "hf": saved_data_set,
}
"""The data sets whose images stay where they lie: `(path, how they are read, the scan's cache)`."""
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
    validation: float | None = None,
    resized: bool = False,
) -> DataSet:
    """Opens the data set `NAME` or `NAME:PATH`, or an imported `package.module:function`. Raises UserError.

    Image files are scanned by rank 0 alone; what it finds lies in the memory of each machine once.

    image_size: side in pixels. Images that are held as bytes must have it already; None: whatever they have.
    resized: whether such images are resized to it, bilinear and antialiased, as a network of other images wants them.
    resident: whether image files are decoded now, to image_size; else they are read as they are needed.
    limit_train: so many training images are kept: a random choice by a fixed seed, in the order of the set.
    validation: the share of every class's training images that the training is watched by.
    threads: how many decode at once.
    cache: the folder that keeps what the scan of image files found, unless `reading` names one.
    """
    name = find_dataset(spec)
    if image_size is not None and image_size < 1:
        raise UserError(f"--image-size is at least 1, got {image_size}")
    reading = reading or Reading()
    data = _opened(name, spec.partition(":")[2], reading, cache)
    train, test, watched = data.train, data.test, data.validation
    if validation is not None:
        if watched is not None:
            raise UserError(f"--validation changes nothing: {data.name} has images to watch the training by")
        train, watched = map(train.take, stratified(train.labels.numpy(), validation, data.classes, "--validation"))
    if limit_train is not None:
        train = limited(train, limit_train)
    if resident:
        assert image_size is not None
        train, test, watched = (
            load_resident(split, image_size, threads, data.failures) if isinstance(split, FileSplit) else split
            for split in (train, test, watched)
        )
    if resized and image_size is not None:
        train, test, watched = (_of_size(split, image_size) for split in (train, test, watched))
    for split in (train, test, watched):
        if isinstance(split, Split) and image_size not in (None, split.images.shape[1]):
            raise UserError(f"{name} has images of {split.images.shape[1]} pixels, --image-size says {image_size}")
    assert train is not None and test is not None
    return dataclasses.replace(data, train=train, test=test, validation=watched)


def find_dataset(spec: str) -> str:
    """The name of the data set that `NAME`, `NAME:PATH` or an import path means: the import path itself.

    Nothing is imported here: the name may come out of a file. Raises UserError.
    """
    name = spec.partition(":")[0]
    if name in DATASETS:
        return name
    if is_imported(spec):
        return spec
    if is_import_path(spec):
        raise UserError(
            f"the data set {spec!r} is code outside of fastkd: nothing that a file names is imported; name it on the "
            "command line, by --data, or trust the run by --trust RUN"
        )
    if name == "parquet":
        raise UserError(
            "parquet is not read by place, one image of it takes thousands: python -m fastkd.data pack PARQUET FOLDER "
            "turns it once into tar shards, --data 'tar:FOLDER/*.tar'"
        )
    raise UserError(f"no data set {name!r}{nearest(name, DATASETS)}")


def is_import_path(spec: str) -> bool:
    """Whether it has the form `package.module:function`, and is no data set of the table."""
    name, _, function = spec.partition(":")
    return name not in DATASETS and function.isidentifier() and all(part.isidentifier() for part in name.split("."))


def named_by_a_person(spec: str) -> str:
    """What `find_dataset` finds; an import path is imported. Only for a name that a person has given."""
    name = spec.partition(":")[0]
    if is_import_path(spec) and not is_given(spec):
        if "." not in name and name not in sys.modules and importlib.util.find_spec(name) is None:
            raise UserError(f"no data set {name!r}{nearest(name, DATASETS)}")
        import_data(spec)
    return find_dataset(spec)


def with_absolute_path(data: str) -> str:
    """`NAME:PATH` with the path made absolute; raises UserError for a data set that is not known.

    An import path is imported, and stays as it is; so does the address of something elsewhere, `tar:s3://…`.
    """
    name = named_by_a_person(data)
    path = data.partition(":")[2]
    is_place = name in DATASETS and path and "://" not in path
    return f"{name}:{expanded(path).absolute()}" if is_place else data


def is_resident(reading: Reading, crop: str) -> bool:
    """Whether image files are decoded once, to stay on the device."""
    return crop == "pad" if reading.resident is None else reading.resident


def stays_in_files(spec: str) -> bool:
    """Whether the images of a data set may stay where they lie; of an imported one nobody knows before it is opened."""
    return spec.partition(":")[0] in FOLDERS or is_imported(spec)


def settled(reading: Reading, data: str, crop: str) -> Reading:
    """`reading` with the loader `auto` replaced by a definite one, if files are streamed.

    A run that is resumed on another machine must not change its pixels.
    """
    if not (stays_in_files(data) and not is_resident(reading, crop)):
        return reading
    return dataclasses.replace(reading, loader=resolved_loader(reading.loader))


def keep_index(data: DataSet, folder: Path) -> None:
    """Puts what the scan of the data set found into the folder, for the next time it is opened."""
    for scan in data.scans:
        scan.keep(folder)


def _opened(name: str, path: str, reading: Reading, cache: Path | None) -> DataSet:
    if is_imported(name):
        return data_of_object(name, reading)
    function = DATASETS[name]
    if reading.label_column is not None and name not in ("csv", "hf", "tar"):
        raise UserError(f"--label-column changes nothing: {name} has no columns")
    if name in FOLDERS:
        return made_once(lambda: function(path, reading, reading.index_cache or cache))
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


def _of_size(split: Split | FileSplit | None, size: int) -> Split | FileSplit | None:
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
