"""Runs that are stopped after a step, and go on."""

import pytest

from fastkd.support.interrupt import Interrupt, Stopped
from fastkd.training.step import Step
from helpers.tiny import outcome, train


class AfterSteps(Interrupt):
    """A Ctrl-C that comes while step `count` runs."""

    def __init__(self, monkeypatch, count):
        super().__init__()
        original, seen = Step.__call__, [0]

        def counted(step, raw):
            seen[0] += 1
            if seen[0] == count:
                self.requested = "SIGINT"
            return original(step, raw)

        monkeypatch.setattr(Step, "__call__", counted)


def stopped_and_resumed(given, folder, count):
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped, match="stopped by SIGINT"):
        train(given, folder, AfterSteps(patch, count))
    train(given, folder)
    return outcome(folder)
