"""Small sets, held on the device whole: the loader only says which images come next."""

from collections.abc import Iterator

from torch import Tensor

from fastkd.data.base import RawBatch
from fastkd.data.order import InOrder, Order


class ResidentLoader:
    def __init__(self, labels: Tensor, classes: tuple[str, ...], order: Order | InOrder):
        self.labels, self.classes, self.order = labels, classes, order
        self.samples, self.steps = order.samples, order.steps

    def epoch(self, epoch: int, start: int = 0) -> Iterator[RawBatch]:
        for index in self.order.epoch(epoch, start):
            yield RawBatch(index)
