"""What a data set, a loader and a batch are."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from fastkd.data.failures import Failures
from fastkd.data.found import Scan
from fastkd.data.records import Records
from fastkd.data.shares import Place
from fastkd.support.environment import cores
from fastkd.support.plain import Checked
from fastkd.support.ranges import BETWEEN_0_AND_1, whole

_LOOKERS = 32


class RawBatch(NamedTuple):
    """What a loader yields: the images' row numbers in the split and, unless the device has them, their pixels."""

    index: Tensor
    """[B] int64"""
    images: Tensor | None = None
    """[V,B,H,W,3] uint8, V views."""
    taught: tuple[Tensor, ...] = ()
    """[B,words] int32 of each stored teacher, unless the device has them."""
    paired: bool = False
    """Whether index and images hold the partners of the batch's images behind these: they are [2B] then."""
    whole: int | None = None
    """The images of the global batch, over all ranks; None: as many as the training's batches have."""

    @property
    def size(self) -> int:
        """B: the images that are trained on."""
        return len(self.index) // 2 if self.paired else len(self.index)

    def to(self, device: torch.device) -> Self:
        images = None if self.images is None else self.images.to(device, non_blocking=True)
        taught = tuple(rows.to(device, non_blocking=True) for rows in self.taught)
        return self._replace(index=self.index.to(device, non_blocking=True), images=images, taught=taught)

    def copied(self) -> Self:
        images = None if self.images is None else self.images.clone()
        taught = tuple(rows.clone() for rows in self.taught)
        return self._replace(index=self.index.clone(), images=images, taught=taught)

    def fill(self, other: Self) -> None:
        """Takes over the contents of a batch of the same size, in place."""
        self.index.copy_(other.index, non_blocking=True)
        if self.images is not None and other.images is not None:
            self.images.copy_(other.images, non_blocking=True)
        for mine, theirs in zip(self.taught, other.taught, strict=True):
            mine.copy_(theirs, non_blocking=True)


class Mixed(NamedTuple):
    """The second image in each image of a batch."""

    labels: Tensor
    """[B] int64: its label."""
    share: Tensor
    """[B] float32: how much of the image is the first one, whose label is `Batch.labels`."""


class Batch(NamedTuple):
    """What a stage trains on, on its device."""

    images: Tensor
    """[V,B,3,H,W], normalised. View 0 is the plain one: CE, hits and images/s count it alone."""
    labels: Tensor
    """[B] int64"""
    index: Tensor
    """[B] int64: row numbers in the split."""
    step: Tensor
    """int64 scalar: optimisation steps done in this stage."""
    epoch: Tensor
    """int64 scalar, from 0."""
    taught: tuple[Tensor, ...] = ()
    """[B,words] int32 of each stored teacher: its row of each image, in place of what it would say of it. Empty: the
    teachers themselves are asked."""
    mixed: Mixed | None = None
    """What the images are mixed with, where they are."""
    place: Place = Place()
    """Where the images stand in the global batch."""


@dataclass(frozen=True)
class Views:
    """The views that a training gets of each image. View 0 is the same whatever the others are."""

    count: int = 1
    """Number of views, each with random numbers of its own (KDCL: one for each network)."""
    quarter_turns: bool = False
    """View v of four is turned by v·90°: the views share flip and angle, each has its own crop (SSKD)."""
    strong: bool = False
    """Whether views other than the first are augmented strongly (MLLD, CRLD)."""

    def __post_init__(self) -> None:
        if self.count < 1 or (self.quarter_turns and self.count != 4):
            raise ValueError(f"there is at least one view, and there are four quarter turns; got {self}")


ONE_VIEW = Views()
WEAK_AND_STRONG = Views(2, strong=True)
FOUR_ROTATIONS = Views(4, quarter_turns=True)


@dataclass(frozen=True, kw_only=True)
class Reading(Checked):
    """How image files and other stored images are read. Data sets that are held as bytes, as CIFAR is, ignore it."""

    loader: Literal["auto", "dali", "torchvision"] = "auto"
    """Who decodes them (default: DALI where it is installed). The two differ in the last bits of a resized pixel."""
    resident: bool | None = None
    """Decode all of them once and keep them on the device (default: with --crop pad)."""
    max_bad_images: Annotated[int, whole(0, 2**63 - 1)] = 0
    """Leave out so many files that cannot be used; one more is an error (default: 0)."""
    class_list: Path | None = None
    """File of lines CLASS [NAME]: the classes in label order (default: classes.txt beside the data, else all)."""
    split: Annotated[float, BETWEEN_0_AND_1] | None = None
    """Keep this share of the images of every class to test on, where the data are in one piece."""
    label_column: str | None = None
    """Column, or key of a .json beside the image, that holds the labels (csv, hf, tar)."""
    workers: Annotated[int, whole(0, 1_024)] | None = None
    """Processes (torchvision) or threads (DALI) that decode; they never change a result (default: all cores). 0: this
    process itself (torchvision)."""
    index_cache: Path | None = None
    """Folder for what the scan of a data set finds (default: the run's)."""

    def decoders(self, processes: int = 1) -> int:
        """The number of workers; by default the cores of this machine, shared by so many processes."""
        return max(1, cores() // processes) if self.workers is None else self.workers

    @property
    def lookers(self) -> int:
        """Threads that look at files before any is decoded: they wait for a store more than they compute."""
        return max(_LOOKERS, self.decoders())


@dataclass(frozen=True)
class Split:
    """Images of one size, held as bytes."""

    images: Tensor
    """[n,H,W,3] uint8; in memory the colour planes may follow each other, which is faster on a CPU."""
    labels: Tensor
    """[n] int64"""

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, kept: np.ndarray) -> "Split":
        places = torch.from_numpy(kept)
        planes = self.images.movedim(-1, 1)[places]
        return Split(planes.movedim(1, -1), self.labels[places])


@dataclass(frozen=True)
class FileSplit:
    """Images that stay where they lie, in files mostly, until they are needed."""

    records: Records
    labels: Tensor
    """[n] int64"""
    sizes: np.ndarray
    """[n,2] int32: width and height, as the heads of the files give them."""
    plain: np.ndarray
    """[n] bool: whether the file is a JPEG or a PNG of 8 bits, out of which every decoder reads the same bytes."""

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, kept: np.ndarray) -> "FileSplit":
        return FileSplit(
            self.records.take(kept), self.labels[torch.from_numpy(kept)], self.sizes[kept], self.plain[kept]
        )


class Part(NamedTuple):
    """Rows of a test split that are measured by themselves."""

    name: str
    """What was done to the images: fog, frost …"""
    level: int
    """How strongly, from 1."""
    start: int
    stop: int
    """The row behind the last one."""


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A training and a test split with the same classes."""

    name: str
    train: Split | FileSplit
    test: Split | FileSplit
    validation: Split | FileSplit | None = None
    """What the training is watched by in place of the test split, which is then looked at once, at the end."""
    classes: tuple[str, ...]
    mean: tuple[float, float, float]
    """Mean of each channel over the training images, where white is 1."""
    std: tuple[float, float, float]
    """Standard deviation of each channel, likewise."""
    failures: Failures = field(default_factory=Failures)
    """Images that were left out, and how many may be."""
    named: bool = True
    """Whether `classes` are names: numbers that stand for names that nobody gave say nothing about a class."""
    scans: tuple[Scan, ...] = ()
    """What the scans of its folders found."""
    notes: tuple[str, ...] = ()
    """Remarks about its folder, which the user is told once."""
    parts: tuple[Part, ...] = ()
    """The parts of the test split, where it has some: a figure for each says more than one for all."""


class Loader(Protocol):
    """A source of raw batches.

    The global batch is a function of (seed, epoch, step) and a rank takes its slice of it: there is nothing to save,
    and any step can be started from.
    """

    steps: int
    """Batches that this rank takes in one epoch."""
    samples: int
    """Images of the split, over all ranks."""
    labels: Tensor
    """[samples] int64, on the CPU."""
    classes: tuple[str, ...]

    def epoch(self, epoch: int, start: int = 0) -> Iterator[RawBatch]:
        """The batches of one epoch, from step `start` of it on. None of them is empty."""
        ...


def channel_statistics(images_nHWC: Tensor) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and standard deviation of each channel over all pixels, where white is 1."""
    counts = torch.stack([torch.bincount(plane.reshape(-1), minlength=256) for plane in images_nHWC.unbind(-1)])
    shares_C256 = counts / counts.sum(1, keepdim=True, dtype=torch.float64)
    values = torch.arange(256, dtype=torch.float64) / 255
    means_C = shares_C256 @ values
    mean, std = means_C.tolist(), (shares_C256 @ values.square() - means_C.square()).sqrt().tolist()
    return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])
