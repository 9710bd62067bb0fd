"""Runs from beginning to end: what they leave, and that interrupting them changes nothing."""

import errno
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.interrupts import AfterSteps
from helpers.tiny import CPU, Quiet, assert_same, job_of, outcome, tiny_recipe, train

import fastkd
from fastkd.methods.kd import KDSettings
from fastkd.run import load_network, open_run
from fastkd.run.run import Run
from fastkd.run.weights import describe, find_weights
from fastkd.support import files
from fastkd.support.errors import UserError
from fastkd.support.interrupt import Stopped
from fastkd.support.locks import locked
from fastkd.support.session import Session
from fastkd.training.step import Step


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train(tiny_recipe(keep_epochs=(1,)), folder)
    return folder


def test_what_a_run_leaves(finished):
    names = {path.name for path in finished.iterdir()} - {".lock"}
    weights = {"teacher.safetensors", "student.safetensors", "control.safetensors"}
    assert names == weights | {"recipe.json", "env.json", "results.json", "metrics.jsonl", "checkpoints"}
    kept = {"teacher@1.safetensors", "student@1.safetensors", "control@1.safetensors"}
    assert {path.name for path in (finished / "checkpoints").iterdir()} == kept
    results = json.loads((finished / "results.json").read_text())
    assert list(results["stages"]) == ["teacher", "student", "control"]
    assert set(results["stages"]["teacher"]["test"]) == {"teacher", "branch 1", "branch 2"}
    assert set(results["similarity"]) == {"student", "control"}
    assert open_run(finished) == tiny_recipe(keep_epochs=(1,))


def test_every_call_of_a_run_is_told(tmp_path):
    """When, where and by which command, whatever an earlier program left there."""
    train(tiny_recipe(), tmp_path / "run")
    first = json.loads((tmp_path / "run" / "env.json").read_text())
    assert all(first[name] for name in ("date", "host", "command", "cores", "operations")) and first["earlier"] == []
    train(tiny_recipe(), tmp_path / "run")
    again = json.loads((tmp_path / "run" / "env.json").read_text())
    assert again["earlier"] == [{name: first[name] for name in ("date", "host", "command")}]


def test_the_log_has_every_epoch(finished):
    records = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    epochs = [(record["stage"], record["epoch"], record["step"]) for record in records]
    assert epochs == [(stage, e, 4 * e) for stage in ("teacher", "student", "control") for e in (1, 2)]
    assert set(records[0]["train"]) == {"loss", "teacher_ce", "kl", "branch_ce", "top1", "top5"}
    assert records[0]["test"]["teacher"]["samples"] == 899
    teacher = records[0]["train"]
    assert teacher["loss"] == pytest.approx(teacher["teacher_ce"] + 3 * teacher["kl"] + teacher["branch_ce"], rel=1e-5)


def test_the_student_loads_from_the_folder(finished):
    student = fastkd.load_student(str(finished))
    assert not student.training
    results = json.loads((finished / "results.json").read_text())
    assert results["stages"]["student"]["parameters"] == sum(p.numel() for p in student.parameters())
    assert describe(finished / "student.safetensors")[:4] == ("resnet8", 10, 8, None)
    alone, images = fastkd.load_student(str(finished), logits=True), torch.rand(3, 3, 8, 8)
    assert not alone.training and torch.equal(alone(images), student(images).logits)


def test_a_student_and_its_control_begin_alike_and_the_seed_decides(tmp_path, finished):
    train(tiny_recipe(seed=1), tmp_path / "other")
    weights = [load_network(folder, "student").stem[0].weight for folder in (finished, tmp_path / "other")]
    assert not torch.equal(*weights)
    train(tiny_recipe(keep_epochs=(1,)), tmp_path / "again")
    assert_same(outcome(tmp_path / "again"), outcome(finished))


# Four steps an epoch, two epochs a stage: inside epochs, at their ends, at the ends of stages.
@pytest.mark.parametrize(
    "count", (3, 4, 9, 16, *(pytest.param(count, marks=pytest.mark.slow) for count in (1, 6, 8, 13, 20, 24)))
)
def test_stopped_after_any_step_and_resumed_is_the_same_bit_for_bit(count, finished, tmp_path):
    recipe, folder = tiny_recipe(keep_epochs=(1,)), tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped, match="stopped by SIGINT"):
        train(recipe, folder, AfterSteps(patch, count))
    train(recipe, folder)
    assert_same(outcome(folder), outcome(finished))


def test_the_schedule_and_adam_resume_exactly_too(tmp_path):
    base = tiny_recipe()
    changes = {"optimizer": "adam", "lr": 1e-3, "warmup_epochs": 1, "drop_last": False}
    recipe = replace(base, stages=tuple(replace(s, training=replace(s.training, **changes)) for s in base.stages))
    train(recipe, tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        train(recipe, tmp_path / "parts", AfterSteps(patch, 7))
    train(recipe, tmp_path / "parts")
    assert_same(outcome(tmp_path / "parts"), outcome(tmp_path / "whole"))


def test_the_records_inside_an_epoch_go_on_too(tmp_path, monkeypatch):
    monkeypatch.setattr("fastkd.training.records.LOG_STEPS", 2)
    recipe = replace(tiny_recipe(), stages=tiny_recipe().stages[:1])
    stages = tuple(replace(s, training=replace(s.training, batch_size=16)) for s in recipe.stages)
    recipe = replace(recipe, stages=stages)
    train(recipe, tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        train(recipe, tmp_path / "parts", AfterSteps(patch, 5))
    train(recipe, tmp_path / "parts")
    assert_same(outcome(tmp_path / "parts"), outcome(tmp_path / "whole"))


class Killed(BaseException):
    """Stands for kill -9: nothing catches it, nothing is cleaned up."""


def fail_at(monkeypatch, name, number, error):
    """The number-th call of os.NAME that fastkd.files makes for a file in a run raises the error."""
    original, seen = getattr(os, name), [0]

    def failing(*arguments, **options):
        seen[0] += 1
        if seen[0] == number:
            raise error
        return original(*arguments, **options)

    monkeypatch.setattr(files.os, name, failing)


# A run of this recipe renames 17 files into place; each is flushed, and its folder after it.
FAULTS = [("replace", number) for number in (1, 3, 5, 6, 7, 12, 17)] + [
    ("fsync", number) for number in (5, 6, 9, 21, 34)
]


@pytest.mark.parametrize(
    "operation, number",
    [pytest.param(*fault, marks=() if fault[1] in (3, 7, 17, 9, 34) else pytest.mark.slow) for fault in FAULTS],
)
@pytest.mark.parametrize("fault", ("killed", "disk full"))
def test_faults_while_files_are_written_lose_nothing(fault, operation, number, finished, tmp_path):
    recipe, folder = tiny_recipe(keep_epochs=(1,)), tmp_path / "run"
    error = Killed() if fault == "killed" else OSError(errno.ENOSPC, "No space left on device")
    with pytest.MonkeyPatch.context() as patch:
        fail_at(patch, operation, number, error)
        with pytest.raises(Killed if fault == "killed" else UserError) as raised:
            train(recipe, folder)
    if fault == "disk full":
        assert re.match(r"cannot (write|create the folder) .*: the disk is full", str(raised.value))
        assert not list(folder.rglob(".*.[0-9]*")), "a half-written file was left behind"
    train(recipe, folder)
    assert_same(outcome(folder), outcome(finished))


def test_a_loss_that_is_not_finite_stops_the_run_and_spares_the_weights(tmp_path):
    recipe, folder = tiny_recipe(), tmp_path / "run"
    original, seen = Step.__call__, [0]

    def poisoned(step, raw):
        seen[0] += 1
        if seen[0] == 6:
            batch = step.prepare
            step.prepare = lambda *a: batch(*a)._replace(images=torch.full((1, 32, 3, 8, 8), torch.nan))
            before = {name: value.clone() for name, value in step.stage.named_parameters()}
            loss = original(step, raw)
            step.prepare = batch
            assert all(torch.equal(value, before[name]) for name, value in step.stage.named_parameters())
            return loss
        return original(step, raw)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Step, "__call__", poisoned)
        with pytest.raises(
            UserError,
            match=r"teacher: the loss or its gradient was not finite in step 5 \(epoch 2\): loss nan, teacher_ce nan",
        ):
            train(recipe, folder)
    train(recipe, folder)  # without the poison it goes on from the checkpoint before


def test_two_processes_in_one_folder_are_refused(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with locked(folder), pytest.raises(UserError, match="another process is training in"):
        train(tiny_recipe(), folder)


class TestCheckpoints:
    def stop(self, folder, count=3):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
            train(tiny_recipe(), folder, AfterSteps(patch, count))
        return folder / "checkpoints" / "teacher.pt"

    def test_damaged(self, tmp_path):
        checkpoint = self.stop(tmp_path)
        checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
        with pytest.raises(UserError, match=r"teacher\.pt is not a checkpoint"):
            train(tiny_recipe(), tmp_path)

    def test_of_a_newer_version(self, tmp_path):
        checkpoint = self.stop(tmp_path)
        state = torch.load(checkpoint, weights_only=True)
        torch.save(state | {"format": 99}, checkpoint)
        with pytest.raises(UserError, match=r"teacher\.pt has format 99, this fastkd reads 1 and 2"):
            train(tiny_recipe(), tmp_path)

    def test_of_another_network(self, tmp_path):
        self.stop(tmp_path)
        recipe = tiny_recipe()
        other = tuple(replace(stage, network="resnet14") for stage in recipe.stages)
        with pytest.raises(
            UserError, match=r"teacher\.pt was made with stage\.network = 'resnet8', the recipe now says"
        ):
            train(replace(recipe, stages=other), tmp_path)

    @pytest.mark.parametrize("change", ({"lr": 0.01}, {"batch_size": 16}, {"epochs": 3}))
    def test_of_an_edited_recipe(self, change, tmp_path):
        self.stop(tmp_path)
        recipe = tiny_recipe()
        edited = tuple(replace(stage, training=replace(stage.training, **change)) for stage in recipe.stages)
        with pytest.raises(UserError, match=r"teacher\.pt was made with stage\.training\.\w+ = .*start another run"):
            train(replace(recipe, stages=edited), tmp_path)

    def test_a_finished_stage_of_an_edited_recipe(self, finished):
        with pytest.raises(UserError, match=r"results\.json was made with seed = 0, the recipe now says 1"):
            train(tiny_recipe(keep_epochs=(1,), seed=1), finished)

    def test_results_that_are_none(self, tmp_path):
        self.stop(tmp_path)
        (tmp_path / "results.json").write_text("{}")
        with pytest.raises(UserError, match=r"results\.json lacks the entry 'seed'"):
            train(tiny_recipe(), tmp_path)

    def test_a_file_where_a_folder_should_be(self, tmp_path):
        (tmp_path / "checkpoints").write_text("")
        with pytest.raises(UserError, match="cannot create the folder .*checkpoints"):
            train(tiny_recipe(), tmp_path)

    def test_loads_without_unpickling_code(self, tmp_path):
        state = torch.load(self.stop(tmp_path), weights_only=True)
        assert state["progress"]["step"] == 3


class TestTeachersFromElsewhere:
    def recipe(self, file):
        recipe = tiny_recipe()
        loaded = replace(recipe.stages[0], training=None, sftn=None, file=str(file))
        loaded = replace(loaded, sha256=files.sha256(file))
        return replace(recipe, stages=(loaded, *recipe.stages[1:]))

    def test_the_teacher_of_a_run_is_taken_as_it_is(self, finished, tmp_path):
        results = train(self.recipe(find_weights(str(finished))), tmp_path)
        own = json.loads((finished / "results.json").read_text())["stages"]["teacher"]["test"]["teacher"]
        assert results[0]["stages"]["teacher"]["test"]["teacher"] == own
        before, after = (load_network(folder, "teacher").state_dict() for folder in (finished, tmp_path))
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_several_seeds_have_runs_of_their_own(tmp_path):
    results = train(tiny_recipe(seeds=2, seed=4), tmp_path)
    assert [result["seed"] for result in results] == [4, 5]
    assert sorted(path.name for path in tmp_path.glob("seed-*")) == ["seed-4", "seed-5"]
    assert open_run(tmp_path / "seed-5").seed == 5
    with pytest.raises(UserError, match=r"holds several seeds; name one: .*seed-4"):
        find_weights(str(tmp_path))
    again = Quiet()
    train(tiny_recipe(seeds=2, seed=4), tmp_path, display=again)
    assert all("finished before" in note for note in again.notes)


def test_settings_of_the_method_reach_the_loss(tmp_path):
    recipe = tiny_recipe()
    teacher, student, _ = recipe.stages
    student = replace(student, settings={"kd": KDSettings(ce_weight=1.0, kl_weight=0.0)})
    train(replace(recipe, stages=(teacher, student)), tmp_path)
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    last = records[-1]["train"]
    assert last["loss"] == pytest.approx(last["ce"], rel=1e-6) and last["kl"] > 0


def test_the_device_is_the_one_asked_for(finished):
    assert next(load_network(finished, "teacher").parameters()).device == CPU


def test_gradients_that_are_not_finite_change_no_weight_either(tmp_path):
    """A finite loss whose gradient overflows."""
    recipe, folder = tiny_recipe(), tmp_path / "run"
    original, seen = Step._accumulate, [0]

    def poisoned(step, *given):
        loss = original(step, *given)
        seen[0] += 1
        if seen[0] == 3:
            next(step.stage.parameters()).grad.fill_(torch.inf)
        return loss

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Step, "_accumulate", poisoned)
        with pytest.raises(UserError, match=r"not finite in step 2 \(epoch 1\)"):
            train(recipe, folder)


@pytest.mark.parametrize("draws, processes, told", [(True, 2, 1), (True, 1, 0), (False, 2, 0)])
def test_a_network_that_draws_by_itself_is_named_where_processes_share_a_batch(draws, processes, told, monkeypatch):
    job, display = job_of(tiny_recipe()), Quiet()
    one = Run(job, 0, Path(), Session(display))
    monkeypatch.setattr("fastkd.run.run.world_size", lambda: processes)
    monkeypatch.setattr("fastkd.run.run.draws_otherwise", lambda *_: draws)
    monkeypatch.setattr("fastkd.networks.base.Network.remake", {})  # as a network of others has one
    one.build(job.course[-1])
    assert sum("resnet8 draws random numbers that are no dropout's" in note for note in display.notes) == told
