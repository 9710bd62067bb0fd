"""Trainings that come before a student's own: stages of the run like any other."""

import json
from dataclasses import replace

import pytest
import torch
from helpers.courses import prestage_recipe
from helpers.interrupts import AfterSteps
from helpers.recorders import record_everything
from helpers.tiny import Quiet, assert_same, built_stages, outcome, tiny_recipe, train
from safetensors.torch import load_file

from fastkd.options import parse, recipe_of
from fastkd.recipes.course import course
from fastkd.recipes.recipe import plain_to_recipe, recipe_to_plain
from fastkd.support.errors import UserError
from fastkd.support.interrupt import Stopped
from fastkd.training.stages import Prestage


def stages(method):
    """The built stages of the course, with a teacher that is not trained."""
    return built_stages(prestage_recipe(method))[1]


def test_the_plan():
    planned = course(prestage_recipe("kd+ft+sskd"))
    assert [stage.name for stage in planned] == ["teacher", "student-ft", "student-sskd", "student"]
    _, ft, sskd, student = planned
    assert (ft.training.lr, ft.training.epochs, ft.training.milestones) == (0.01, 2, ())
    assert (sskd.training.lr, sskd.training.milestones, sskd.training.factor) == (0.05, (1,), 0.1)
    assert ft.training.schedule == "multistep" and ft.training.warmup_epochs == 0
    assert (ft.after, sskd.after, student.after) == ((), ("student-ft",), ("student-ft", "student-sskd"))
    assert [stage.name for stage in course(tiny_recipe())] == ["teacher", "student", "control"]


def test_the_recipe_in_the_folder_has_the_settings_they_follow_from():
    given = prestage_recipe("kd+ft")
    again = plain_to_recipe(json.loads(json.dumps(recipe_to_plain(given))), "here")
    assert course(again) == course(given)


@pytest.mark.parametrize("method", ("ab", "fsp", "ft", "sskd"))
def test_only_its_part_is_trained_and_handed_on(method):
    built = stages(f"kd+{method}")
    before, student = built[f"student-{method}"], built["student"]
    assert isinstance(before, Prestage) and not isinstance(student, Prestage)
    before.train()
    trained = {name for name, parameter in before.named_parameters() if parameter.requires_grad}
    buffers = {name for name, _ in before.named_buffers()}
    handed_on = before.passed_on()
    assert trained and trained == handed_on.keys() - buffers
    parts = ("network.stem", "network.blocks", f"methods.{method}")
    assert all(name.startswith(parts) for name in trained)
    for name, module in before.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.training == (f"{name}.weight" in trained)
    for value in handed_on.values():
        value.add_(1)
    student.take_over(handed_on)
    state = student.state_dict()
    assert all(torch.equal(state[name], value) for name, value in handed_on.items())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prestages")
    return {method: folder / method for method in ("kd+ft+sskd", "ab", "kd+fsp")}


@pytest.mark.parametrize("method", ("kd+ft+sskd", "ab", "kd+fsp"))
def test_a_run_shows_them(method, whole):
    display, folder = Quiet(), whole[method]
    train(prestage_recipe(method), folder, display=display)
    names = [stage.name for stage in course(prestage_recipe(method))]
    results = json.loads((folder / "results.json").read_text())
    assert list(results["stages"]) == names
    log = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    epochs = [(name, epoch) for name in names for epoch in (1, 2)]
    assert [(record["stage"], record["epoch"]) for record in log] == epochs
    for record in log:
        before = record["stage"].startswith("student-")
        assert bool(record["test"]) != before and ("top1" in record["train"]) != before
        assert record["train"]["loss"] > 0
    assert any(note.startswith(f"{names[1]}  epoch 2/2  loss") for note in display.notes)
    assert (folder / "checkpoints" / f"{names[1]}.safetensors").exists()
    weights = load_file(folder / "student.safetensors")
    assert not any("methods" in name for name in weights)


# Steps 9 to 16 are of the first training before, and so on.
BOTH, ONE = "kd+ft+sskd", "ab"


@pytest.mark.parametrize("method, count", [(BOTH, 10), (BOTH, 16), (BOTH, 19), (BOTH, 27), (ONE, 11), (ONE, 16)])
def test_stopped_and_resumed_is_the_same_bit_for_bit(method, count, whole, tmp_path):
    if not whole[method].exists():
        train(prestage_recipe(method), whole[method])
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped, match="stopped by SIGINT"):
        train(prestage_recipe(method), tmp_path, AfterSteps(patch, count))
    train(prestage_recipe(method), tmp_path)
    assert_same(outcome(tmp_path), outcome(whole[method]))


def test_a_captured_run_is_the_run(whole, tmp_path, monkeypatch):
    if not whole[BOTH].exists():
        train(prestage_recipe(BOTH), whole[BOTH])
    record_everything(monkeypatch)
    train(prestage_recipe(BOTH), tmp_path)
    assert_same(outcome(tmp_path), outcome(whole[BOTH]))


def test_what_is_trained_before_reaches_the_student(tmp_path):
    for epochs in (1, 2):
        given = prestage_recipe("kd+fsp")
        given.stages[1].settings["fsp"] = replace(given.stages[1].settings["fsp"], epochs=epochs)
        train(given, tmp_path / f"{epochs}")
    ones = [load_file(tmp_path / f"{epochs}" / "student.safetensors") for epochs in (1, 2)]
    assert any(not torch.equal(value, ones[1][name]) for name, value in ones[0].items())


def test_of_an_edited_recipe(whole):
    method = "kd+fsp"
    if not whole[method].exists():
        train(prestage_recipe(method), whole[method])
    edited = prestage_recipe(method)
    edited.stages[1].settings["fsp"] = replace(edited.stages[1].settings["fsp"], epochs=3)
    with pytest.raises(UserError, match=r"results\.json was made with .*epochs = 2, the recipe now says 3"):
        train(edited, whole[method])


def test_epochs_shorten_them_too():
    def settings(*arguments):
        return recipe_of(parse(["--method", "kd+sskd", *arguments])).stages[1].settings["sskd"]

    assert (settings().epochs, settings().milestones) == (60, (30, 45))
    halved = settings("--epochs", "5")  # of 10
    assert (halved.epochs, halved.milestones) == (30, (15, 22))
    assert settings("--epochs", "5", "--sskd.epochs", "7").epochs == 7
