"""What a data set, a loader and a batch are."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self

import torch
from torch import Tensor


class RawBatch(NamedTuple):
    """What a loader yields: the images' places in the split and, where they do not live on the device, their pixels."""

    index: Tensor
    """[B] int64"""
    images: Tensor | None = None
    """[V,B,H,W,3] uint8, V views."""

    def to(self, device: torch.device) -> Self:
        images = None if self.images is None else self.images.to(device, non_blocking=True)
        return self._replace(index=self.index.to(device, non_blocking=True), images=images)


class Batch(NamedTuple):
    """What a stage trains on, on its device."""

    images: Tensor
    """[V,B,3,H,W], normalised. View 0 is the plain one: CE, hits and images/s count it alone."""
    labels: Tensor
    """[B] int64"""
    index: Tensor
    """[B] int64: place in the training set."""
    step: Tensor
    """int64 scalar: optimisation steps done in this stage."""
    epoch: Tensor
    """int64 scalar, from 0."""


@dataclass(frozen=True)
class Split:
    """Images of one size, held as bytes."""

    images: Tensor
    """[n,H,W,3] uint8"""
    labels: Tensor
    """[n] int64"""

    def __len__(self) -> int:
        return len(self.labels)


class FileSplit(NamedTuple):
    """Images that stay in their files until they are needed."""

    paths: tuple[str, ...]
    labels: Tensor
    """[n] int64"""


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A training and a test split with the same classes."""

    name: str
    train: "Split | FileSplit"
    test: "Split | FileSplit"
    classes: tuple[str, ...]
    mean: tuple[float, float, float]
    """Of the training images' channels, where white is 1."""
    std: tuple[float, float, float]


class Loader(Protocol):
    """Where batches come from.

    The global batch is a function of (seed, epoch, step) and a rank takes its slice of it: there is nothing to save,
    and any step can be started from.
    """

    steps: int
    """Batches of one epoch."""

    def epoch(self, epoch: int, start: int = 0) -> Iterator[RawBatch]:
        """The batches of one epoch, from step `start` of it on."""
        ...


def channel_statistics(images_nHWC: Tensor) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and standard deviation of each channel, where white is 1."""
    values = images_nHWC.reshape(-1, 3).to(torch.float64) / 255
    mean, std = values.mean(0).tolist(), values.std(0, correction=0).tolist()
    return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])
