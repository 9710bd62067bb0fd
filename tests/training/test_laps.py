"""Steps are timed from end to end, and the waiting for their batches apart."""

import time

import pytest
import torch
from helpers.steps import make_step

from fastkd.data.base import RawBatch
from fastkd.training.laps import Lap, Laps, Timed


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    return clock


class Slow:
    """A loader whose batches take a second each, and whose end takes another."""

    steps, samples, labels, classes = 3, 3, torch.zeros(3, dtype=torch.int64), ("a", "b")

    def __init__(self, clock):
        self.clock = clock

    def epoch(self, epoch, start=0):
        for number in range(start, self.steps):
            self.clock.now += 1
            yield RawBatch(torch.tensor([number]))
        self.clock.now += 1


def test_waiting_is_told_from_what_is_done_with_the_batches(clock):
    laps, found = Laps(), []
    loader = Timed(Slow(clock), laps)
    laps.begin()
    for raw in loader.epoch(0, 1):
        clock.now += 3
        found.append((raw.index.item(), laps.end()))
    assert found == [(1, Lap(4.0, 1.0)), (2, Lap(4.0, 1.0))]
    assert (loader.steps, loader.samples, loader.classes) == (3, 3, ("a", "b"))


def test_what_was_before_an_epoch_counts_in_none_of_its_laps(clock):
    laps = Laps()
    clock.now, laps.waited = 100.0, 7.0
    laps.begin()
    clock.now += 2
    assert laps.end() == Lap(2.0, 0.0)


def test_every_step_of_an_epoch_is_timed():
    step, _ = make_step()
    for _ in step.epoch_of(step.loader, 0):
        pass
    lap = step.meter.read().lap
    assert 0 < lap.waited < lap.seconds
