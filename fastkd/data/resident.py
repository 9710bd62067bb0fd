"""The loader of sets that the device holds whole: it only says which images come next."""

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from fastkd.data.base import RawBatch


class AnyOrder(Protocol):
    """The batches of each epoch, as indices: `fastkd.data.order` has those of data sets."""

    samples: int
    steps: int
    paired: bool

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Tensor]: ...

    def whole(self, epoch: int) -> Tensor: ...


class ResidentLoader:
    """Yields raw batches without pixels, which `augment.ResidentImages` looks up."""

    def __init__(self, labels: Tensor, classes: tuple[str, ...], order: AnyOrder, device: torch.device | None = None):
        self.labels, self.classes = labels, classes
        self.samples, self.steps = order.samples, order.steps
        self.paired = order.paired
        self._order, self._device = order, device

    def epoch(self, epoch: int, start: int = 0) -> Iterator[RawBatch]:
        for index in self._order.epoch(epoch, start):
            yield RawBatch(index, paired=self.paired)

    def order(self, epoch: int) -> Tensor:
        """[steps,B] int64, on the device: the indices of the epoch's whole batches, for steps that nobody on the host
        feeds. A shorter last batch is not among them: `epoch(epoch, start=len(order))` gives it."""
        return self._order.whole(epoch).to(self._device, non_blocking=True)
