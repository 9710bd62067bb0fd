"""What goes wrong outside of a run, and what the run says of it; files and signals are in test_run.py."""

import time
from dataclasses import replace

import pytest
import torch
from helpers.tiny import assert_same, outcome, tiny_recipe, train

from fastkd import train as command
from fastkd.support.errors import UserError
from fastkd.training.step import Step


def test_out_of_memory_names_the_knobs_and_what_was_written_stays(tmp_path, monkeypatch):
    plain, seen = Step._train, [0]

    def exhausted(step, raw):
        seen[0] += 1
        if seen[0] == 18:  # in the second epoch of the teacher
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        plain(step, raw)

    tiny = ["--seeds", "1", "--limit-train", "512", "--epochs", "2", "--batch-size", "32", "--teacher-net", "resnet8"]
    with monkeypatch.context() as patch, pytest.raises(UserError) as error:
        patch.setattr(Step, "_train", exhausted)
        command.main([*tiny, "--threads", "1", "--run", str(tmp_path / "run")])
    assert str(error.value) == (
        "out of memory on cpu: raise --accumulate, or lower --batch-size (now 32) or --image-size"
    )
    assert command.main(["--resume", str(tmp_path / "run")]) == 0
    assert command.main([*tiny, "--threads", "1", "--run", str(tmp_path / "whole")]) == 0
    assert_same(outcome(tmp_path / "run"), outcome(tmp_path / "whole"))


@pytest.mark.parametrize("leap", (-1e8, 1e8), ids=("into the past", "into the future"))
def test_a_clock_that_leaps_changes_nothing(leap, tmp_path, monkeypatch):
    """Somebody sets the clock while the run goes on: durations come from a clock that nobody sets."""
    recipe = replace(tiny_recipe(), stages=tiny_recipe().stages[:1])
    train(recipe, tmp_path / "plain")
    began, told = time.time(), [0]

    def leaping():
        told[0] += 1
        return began + leap * told[0]

    with monkeypatch.context() as patch:
        patch.setattr(time, "time", leaping)
        (result,) = train(recipe, tmp_path / "leaping")
    assert 0 < result["stages"]["teacher"]["seconds"] < 600
    assert_same(outcome(tmp_path / "leaping"), outcome(tmp_path / "plain"))
