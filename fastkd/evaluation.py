"""Exact counts over a test set."""

from collections.abc import Callable, Iterator
from typing import TypedDict

import torch
from torch import Tensor

from fastkd.data import Batch, Source
from fastkd.distributed import sum_over_ranks
from fastkd.networks.base import Network
from fastkd.ops.distill_loss.reference import hit_counts
from fastkd.similarity import Similarity


class Accuracy(TypedDict):
    top1: int
    """Images whose label ranks first."""
    top5: int
    samples: int


@torch.no_grad()
def accuracies(
    predictions: Callable[[Tensor], dict[str, Tensor]], source: Source, device: torch.device
) -> dict[str, Accuracy]:
    """How often each of the named predictions [B,K] is right, over all ranks. The networks must be in eval mode."""
    hits: dict[str, Tensor] = {}
    seen = torch.zeros((), dtype=torch.int64, device=device)
    for batch in batches(source, device):
        seen += len(batch.labels)
        counted = torch.ones_like(batch.labels, dtype=torch.bool)
        for name, logits in predictions(batch.images[0]).items():
            counts = hit_counts(logits, batch.labels, counted)
            hits[name] = hits[name] + counts if name in hits else counts
    result: dict[str, Accuracy] = {}
    total = int(sum_over_ranks(seen).item())
    assert total <= source.samples, f"{total} of {source.samples} test images were counted"
    for name, counts in hits.items():
        top1, top5 = sum_over_ranks(counts).tolist()
        result[name] = {"top1": top1, "top5": top5, "samples": total}
    return result


@torch.no_grad()
def similarity(teacher: Network, student: Network, source: Source, device: torch.device) -> dict[str, float]:
    """KL, CKA and agreement on the test set, over all ranks; the networks must be in eval mode."""
    measured = Similarity(device)
    for batch in batches(source, device):
        measured.add(teacher(batch.images[0]), student(batch.images[0]))
    return measured.reduced().read()


def batches(source: Source, device: torch.device) -> Iterator[Batch]:
    """The batches of one epoch of the source, prepared on the device."""
    zero = torch.zeros((), dtype=torch.int64, device=device)
    for raw in source.loader.epoch(0):
        yield source.prepare(raw.to(device), zero, zero)
