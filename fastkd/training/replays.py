"""A training step that is replayed: where its batches come from, and how many steps one replay takes."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastkd.data import ResidentLoader
from fastkd.data.base import Loader, RawBatch
from fastkd.support.distributed import agreed
from fastkd.training.capture import Recorder

STEPS = 10
"""Steps of one replay, where the host has nothing to bring."""


class Trained(NamedTuple):
    """How much was trained on, by all processes together."""

    images: int
    steps: int = 1


class Beside(NamedTuple):
    """Another training of the same batches, in the same replays."""

    train: Callable[[RawBatch], None]
    train_odd: Callable[[RawBatch], None]
    step: Tensor


class StreamedSteps:
    """One step a replay; every batch is copied to where the recorded step reads it.

    train_odd: trains on a batch of another size than the recorded one, without a replay. Of several processes all
    replay a step, or none: where one of them has lost images of a batch, the others do without a replay, too.
    """

    def __init__(
        self,
        train: Callable[[RawBatch], None],
        recorder: Recorder,
        raw: RawBatch,
        train_odd: Callable[[RawBatch], None],
    ):
        self.recorder, self.train_odd = recorder, train_odd
        self.raw = raw.copied()
        self.one = recorder.record(lambda: train(self.raw))

    def epoch(self, loader: Loader, epoch: int, start: int) -> Iterator[Trained]:
        """Trains on an epoch from its step `start` on; yields after each replay what it trained on."""
        for raw in loader.epoch(epoch, start):
            if agreed(raw.size != self.raw.size):
                self.train_odd(raw)
            else:
                self.raw.fill(raw)
                self.one()
                self.recorder.pace()
            yield Trained(raw.size if raw.whole is None else raw.whole)


class ResidentSteps:
    """Several steps a replay: the images are on the device, and so is the order in which an epoch takes them."""

    def __init__(
        self,
        train: Callable[[RawBatch], None],
        recorder: Recorder,
        loader: ResidentLoader,
        train_odd: Callable[[RawBatch], None],
        *,
        step: Tensor,
        begin: Callable[[int], None],
        every: int = 0,
        beside: Sequence[Beside] = (),
        whole: int | None = None,
    ):
        """begin: called before each replay with the number of its first step in the training. every: how many steps of
        an epoch lie between two before which it has to be called; 0: there is nothing to do. beside: further trainings,
        at the same step of their own, recorded as branches beside this one. whole: images of a global batch; None:
        those of the loader's."""
        self.recorder, self.step = recorder, step
        self.train_odd = (train_odd, *(other.train_odd for other in beside))
        self.loader, self.order = loader, loader.order(0).clone()
        """[steps,B] int64: the images of each step of the epoch that is running."""
        of_loader = RawBatch(self.order[0], paired=loader.paired).size if len(self.order) else 0
        self.whole = of_loader if whole is None else whole
        self.first = torch.zeros_like(step)
        """The training step that the first row of `order` belongs to."""

        work, *others = (self._work(*of_one) for of_one in ((train, step), *((one.train, one.step) for one in beside)))
        self.begin, self.each = begin, math.gcd(STEPS, every)
        self.one = recorder.record(work, beside=others)
        self.several = recorder.record(work, self.each, beside=others)

    def epoch(self, loader: Loader, epoch: int, start: int) -> Iterator[Trained]:
        """Does as `StreamedSteps.epoch`. A replay of several steps ends at a multiple of `each` within the epoch."""
        self.order.copy_(self.loader.order(epoch))
        self.first.copy_(self.step - start)
        before = epoch * self.loader.steps
        while start < len(self.order):
            several = start % self.each == 0 and start + self.each <= len(self.order)
            self.begin(before + start)
            (self.several if several else self.one)()
            self.recorder.pace()
            steps = self.each if several else 1
            start += steps
            yield Trained(steps * self.whole, steps)
        for raw in loader.epoch(epoch, start):
            self.begin(before + start)
            for train_odd in self.train_odd:
                train_odd(raw)
            yield Trained(raw.size if raw.whole is None else raw.whole)

    def _work(self, train: Callable[[RawBatch], None], step: Tensor) -> Callable[[], None]:
        """One step of a training whose own counter is `step`: branches share no tensor that one of them writes."""

        def work() -> None:
            row = (step - self.first).view(1)
            train(RawBatch(self.order.index_select(0, row).squeeze(0), paired=self.loader.paired))

        return work
