"""A stage's own step: taken as it is at first, then replayed; nothing of it is on trial."""

import pytest
import torch
from helpers.recorders import HasNoMemory, Refuses, RunAgain
from torch import nn

from fastkd.training.own_step import OwnStep


class Work:
    """A step of Adam, and where it was taken."""

    def __init__(self, recorder):
        self.weight, self.recorder = nn.Parameter(torch.ones(3)), recorder
        self.optimizer = torch.optim.Adam([self.weight], lr=0.1)
        self.inside, self.told = [], []

    def __call__(self):
        self.inside.append(self.recorder.inside)
        self.optimizer.zero_grad()
        (self.weight**3).sum().backward()
        self.optimizer.step()

    def step(self):
        return OwnStep(self, [self.optimizer], self.recorder, self.told.append)


def taken(recorder, steps):
    work = Work(recorder)
    step = work.step()
    for _ in range(steps):
        step()
    return work


def test_the_first_steps_count_and_the_others_are_replays():
    work = taken(RunAgain(), 7)
    assert work.inside == [True] * 3 + [False] * 4 and work.recorder.replays == 4 and work.recorder.recorded == 1
    plain = Work(RunAgain())
    for _ in range(7):
        plain()
    assert torch.equal(work.weight, plain.weight) and not work.told


def test_adam_may_be_captured_while_it_is_and_only_then():
    asked = []

    class Asks(RunAgain):
        def record(self, work, times=1, *, beside=()):
            asked.append(own.optimizer.param_groups[0]["capturable"])
            return super().record(work, times, beside=beside)

    own = Work(Asks())
    step = own.step()
    for _ in range(5):
        step()
    assert asked == [True] and own.optimizer.param_groups[0]["capturable"] is False


def test_what_cannot_be_recorded_goes_on_and_says_so_once():
    work = taken(Refuses(), 7)
    assert work.inside == [True] * 7
    assert work.told[0].startswith("the images' own steps are not captured: RuntimeError: operation not permitted")
    assert len(work.told) == 1


def test_where_the_memory_runs_out_it_ends():
    with pytest.raises(torch.OutOfMemoryError, match="2 GiB"):
        taken(HasNoMemory(), 4)
