"""What goes wrong outside of a run, and what the run says of it; files and signals are in test_run.py."""

import errno
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.interrupts import AfterSteps
from helpers.tiny import Quiet, assert_same, outcome, tiny_recipe, train

from fastkd import train as command
from fastkd.support.errors import UserError
from fastkd.support.interrupt import Stopped
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


def one_stage(**changes):
    recipe = tiny_recipe(**changes)
    return replace(recipe, stages=recipe.stages[:1])


def stop(recipe, folder, count):
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        train(recipe, folder, AfterSteps(patch, count))


@pytest.fixture(scope="module")
def stopped_and_whole(tmp_path_factory):
    """A recipe of a teacher and a student, its run that was stopped in the student's training, and one that was not."""
    folder, recipe = tmp_path_factory.mktemp("runs"), replace(tiny_recipe(), stages=tiny_recipe().stages[:2])
    stop(recipe, folder / "stopped", 11)
    train(recipe, folder / "whole")
    return recipe, folder / "stopped", folder / "whole"


class TestDamage:
    @pytest.mark.parametrize("part", (0.2, 0.5, 0.9))
    def test_a_checkpoint_with_a_bit_that_flipped_is_refused(self, part, tmp_path):
        stop(one_stage(), tmp_path, 3)
        file = tmp_path / "checkpoints" / "teacher.pt"
        content = bytearray(file.read_bytes())
        content[int(part * len(content))] ^= 1
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"teacher\.pt is damaged"):
            train(one_stage(), tmp_path)

    @pytest.mark.parametrize("damage", ("half", "zeros", "empty", "gone", "a word"))
    def test_a_damaged_log_costs_its_lines_and_a_word(self, damage, stopped_and_whole, tmp_path):
        """A power cut leaves it shorter than the checkpoint counts on, or full of zeros."""
        recipe, stopped, whole = stopped_and_whole
        folder = tmp_path / "run"
        shutil.copytree(stopped, folder)
        log = folder / "metrics.jsonl"
        content = log.read_bytes()
        half = len(content) // 2
        changed = {"half": content[:half], "zeros": content[:half] + bytes(len(content) - half), "empty": b""}
        changed["a word"] = content.replace(b'"epoch"', b'"epoch', 1)
        log.unlink() if damage == "gone" else log.write_bytes(changed[damage])
        display = Quiet()
        train(recipe, folder, display=display)
        assert any("metrics.jsonl is damaged: " in note for note in display.notes)
        after, expected = outcome(folder), outcome(whole)
        assert after["results"] == expected["results"] and after["files"] == expected["files"]
        assert all(record in expected["log"] for record in after["log"]), "what is left is whole"
        assert after["log"][-2:] == expected["log"][-2:], "of the student nothing is missing"

    def test_what_a_killed_process_was_writing_is_cleared(self, tmp_path):
        stop(one_stage(), tmp_path, 3)
        for name in (".recipe.json.77", "checkpoints/.teacher.pt.123", "checkpoints/.teacher@1.safetensors.5"):
            (tmp_path / name).write_text("half")
        train(one_stage(), tmp_path)
        assert not list(tmp_path.rglob(".*.[0-9]*"))

    @pytest.mark.parametrize("number", (errno.EACCES, errno.EIO, errno.EROFS))
    def test_a_checkpoint_that_cannot_be_removed_is_one_line_and_nothing_is_lost(self, number, tmp_path, monkeypatch):
        train(one_stage(), tmp_path / "whole")

        def fails(path, **options):
            raise OSError(number, "words of the system")

        with monkeypatch.context() as patch, pytest.raises(UserError, match=r"cannot remove .*teacher\.pt: words"):
            patch.setattr(Path, "unlink", fails)
            train(one_stage(), tmp_path / "run")
        train(one_stage(), tmp_path / "run")
        assert_same(outcome(tmp_path / "run"), outcome(tmp_path / "whole"))
