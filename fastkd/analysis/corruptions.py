"""Accuracy by corruption and severity (CIFAR-100-C: SFTN's supplement, Table 11)."""

from collections.abc import Mapping, Sequence
from statistics import fmean

import torch
from torch import Tensor

from fastkd.analysis.opened import Opened
from fastkd.data import Part

ByLevel = dict[str, list[float]]
"""{corruption: percent of its images that are right, at each severity from 1}."""


def right_of(opened: Opened) -> dict[str, Tensor]:
    """[images] bool for each network: whether the label of an image ranks first."""
    rows = len(opened.data.test.labels)
    found = {name: torch.zeros(rows, dtype=torch.bool) for name in opened.networks}
    for batch in opened.batches():
        for name, network in opened.networks.items():
            right = network(batch.images[0]).logits.argmax(1) == batch.labels
            found[name][batch.index.cpu()] = right.cpu()
    return found


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
