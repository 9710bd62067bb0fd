"""Accuracy by corruption and severity (CIFAR-100-C: SFTN's supplement, Table 11)."""

from collections.abc import Mapping, Sequence
from statistics import fmean

import torch
from torch import Tensor

from fastkd.data import Batch, Part

ByLevel = dict[str, list[float]]
"""{corruption: percent of its images that are right, at each severity from 1}."""


class Right:
    """Whether the label of each image of a test split ranks first, over batches in any order."""

    def __init__(self, images: int):
        self.of_image = torch.zeros(images, dtype=torch.bool)
        """[images] bool"""

    def add(self, logits_BK: Tensor, batch: Batch) -> None:
        self.of_image[batch.index.cpu()] = (logits_BK.argmax(1) == batch.labels).cpu()


def by_level(right: Tensor, parts: Sequence[Part]) -> ByLevel:
    """right: [images] bool. parts: those of the data set, each at all severities from 1."""
    found: ByLevel = {}
    for part in sorted(parts, key=lambda part: (part.name, part.level)):
        share = right[part.start : part.stop].double().mean().item()
        found.setdefault(part.name, []).append(100 * share)
    return found


def means_by_level(table: Mapping[str, Sequence[float]]) -> list[float]:
    """The mean over the corruptions, at each severity."""
    return [fmean(level) for level in zip(*table.values(), strict=True)]


def grand_mean(table: Mapping[str, Sequence[float]]) -> float:
    return fmean(means_by_level(table))
