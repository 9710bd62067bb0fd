"""Small sets, held on the device whole: the loader only says which images come next."""

from collections.abc import Iterator

from fastkd.data.base import RawBatch
from fastkd.data.order import InOrder, Order


class ResidentLoader:
    def __init__(self, order: Order | InOrder):
        self.order, self.steps = order, order.steps

    def epoch(self, epoch: int, start: int = 0) -> Iterator[RawBatch]:
        for index in self.order.epoch(epoch, start):
            yield RawBatch(index)
