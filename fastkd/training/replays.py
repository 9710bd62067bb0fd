"""A training step that is replayed: where its batches come from, and how many steps one replay takes."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from fastkd.data import ResidentLoader
from fastkd.data.base import Loader, RawBatch
from fastkd.training.capture import Recorder

STEPS = 10
"""Steps of one replay, where the host has nothing to bring."""


class Trained(NamedTuple):
    """How much was trained on."""

    images: int
    steps: int = 1


class StreamedSteps:
    """One step a replay; every batch is copied to where the recorded step reads it.

    train_odd: trains on a batch of another size than the recorded one, without a replay.
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
            if len(raw.index) == len(self.raw.index):
                self.raw.fill(raw)
                self.one()
                self.recorder.pace()
            else:
                self.train_odd(raw)
            yield Trained(len(raw.index))


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
    ):
        self.recorder, self.train_odd, self.step = recorder, train_odd, step
        self.loader, self.order = loader, loader.order(0).clone()
        """[steps,B] int64: the images of each step of the epoch that is running."""
        self.first = torch.zeros_like(step)
        """The training step that the first row of `order` belongs to."""

        def work() -> None:
            row = (step - self.first).view(1)
            train(RawBatch(self.order.index_select(0, row).squeeze(0)))

        self.one, self.several = recorder.record(work), recorder.record(work, STEPS)

    def epoch(self, loader: Loader, epoch: int, start: int) -> Iterator[Trained]:
        """Does as `StreamedSteps.epoch`. A replay of several steps ends at a multiple of `STEPS` within the epoch."""
        self.order.copy_(self.loader.order(epoch))
        self.first.copy_(self.step - start)
        batch = self.order.shape[1]
        while start < len(self.order):
            several = start % STEPS == 0 and start + STEPS <= len(self.order)
            (self.several if several else self.one)()
            self.recorder.pace()
            steps = STEPS if several else 1
            start += steps
            yield Trained(steps * batch, steps)
        for raw in loader.epoch(epoch, start):
            self.train_odd(raw)
            yield Trained(len(raw.index))
