"""A run whose every step and evaluation is recorded is the run. Without a GPU a replay runs what was recorded again."""

from dataclasses import replace

import pytest
from helpers.recorders import record_everything
from helpers.tiny import assert_same, outcome, tiny_recipe, train

from fastkd.support.interrupt import Interrupt, Stopped
from fastkd.training.capture import first_lines
from fastkd.training.step import Step


class AfterReplays(Interrupt):
    """A Ctrl-C that comes while step `count` of the run is taken."""

    def __init__(self, count):
        super().__init__()
        self.left = count

    def saw(self, steps):
        self.left -= steps
        if self.left <= 0 and self.requested is None:
            self.requested = "SIGINT"


@pytest.mark.parametrize(
    "count", (pytest.param(None, marks=pytest.mark.slow), 14, pytest.param(31, marks=pytest.mark.slow))
)
def test_a_captured_run_is_the_run(count, tmp_path, monkeypatch):
    """Both stages and evaluation, also stopped in the middle of an epoch and resumed; bit for bit.

    16 steps an epoch, two epochs a stage; 31 is the last step but one of the first stage: its warm-up looks beyond.
    """
    recipe = tiny_recipe()
    stages = tuple(replace(s, training=replace(s.training, batch_size=8)) for s in recipe.stages)
    recipe = replace(recipe, stages=stages)
    train(recipe, tmp_path / "plain")
    record_everything(monkeypatch)
    if count is not None:
        interrupt, plain_steps = AfterReplays(count), Step.epoch_of

        def counted(step, *arguments):
            for steps in plain_steps(step, *arguments):
                interrupt.saw(steps)
                yield steps

        with monkeypatch.context() as patch, pytest.raises(Stopped):
            patch.setattr(Step, "epoch_of", counted)
            train(recipe, tmp_path / "captured", interrupt)
    train(recipe, tmp_path / "captured")
    assert_same(outcome(tmp_path / "captured"), outcome(tmp_path / "plain"))


@pytest.mark.parametrize(
    "error, line",
    [
        (RuntimeError("no\nsuch\nthing"), "RuntimeError: no such"),
        (ValueError("  spaces around  "), "ValueError: spaces around"),
        (KeyError("name"), "KeyError: 'name'"),
        (MemoryError(), "MemoryError:"),
    ],
)
def test_why_something_failed_is_one_line(error, line):
    assert first_lines(error).strip() == line
