"""Students and seeds of one store, side by side in one recording, end as each by itself. Without a GPU a replay runs
what was recorded again."""

from dataclasses import replace
from pathlib import Path

import pytest
from helpers.recorders import RunAgain
from helpers.tiny import Quiet, job_of, tiny_recipe, train

from fastkd.recipes.recipe import StageRecipe
from fastkd.run import carry_out, create_folder
from fastkd.stored import Storing
from fastkd.support.errors import UserError
from fastkd.support.files import sha256
from fastkd.support.session import Session
from fastkd.training.execution import EVERYTHING_OFF
from fastkd.training.stages import Distill
from fastkd.training.trainer import Trainer

CAPTURED = EVERYTHING_OFF._replace(capture=True)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    recipe = tiny_recipe()
    folder = tmp_path_factory.mktemp("teacher") / "run"
    train(replace(recipe, stages=(replace(recipe.stages[0], sftn=None),)), folder)
    return folder / "teacher.safetensors"


def recipe_of(teacher: Path, store: Path, batch=32, **changes):
    """Two students of a stored teacher; two epochs of four steps, or of three and a shorter one."""
    base = tiny_recipe()
    loaded = StageRecipe(name="teacher", role="teacher", network="resnet8", file=str(teacher), sha256=sha256(teacher))
    student = replace(base.stages[1], training=replace(base.stages[1].training, batch_size=batch, drop_last=False))
    other = replace(student, name="student-resnet14", network="resnet14")
    storing = Storing(teacher_outputs=store)
    return replace(base, **{"stages": (loaded, student, other), "storing": storing, "data_seed": 0} | changes)


@pytest.fixture(scope="module")
def alone(teacher, tmp_path_factory):
    """Every student of two seeds, each trained by itself."""
    folder = tmp_path_factory.mktemp("alone")
    train(recipe_of(teacher, folder / "store", 40, seeds=2), folder / "run")
    return students(folder / "run")


def students(folder: Path):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("student*.safetensors"))}


class Watched(RunAgain):
    def __init__(self, device=None):
        super().__init__()
        branches.append(self)
        self.widths = []

    def record(self, work, times=1, *, beside=()):
        self.widths.append(1 + len(beside))
        return super().record(work, times, beside=beside)


branches: list[Watched] = []
"""The recorders that were made."""


@pytest.fixture
def captured(monkeypatch):
    branches.clear()
    monkeypatch.setattr("fastkd.training.trainer.CudaRecorder", Watched)


def train_captured(recipe, folder):
    if not (folder / "recipe.json").exists():
        create_folder(folder, recipe)
    display = Quiet()
    results = carry_out(job_of(recipe, CAPTURED), folder, Session(display))
    return results, display.notes


def test_students_and_seeds_side_by_side_end_as_each_by_itself(teacher, alone, captured, tmp_path):
    recipe = recipe_of(teacher, tmp_path / "store", 40, seeds=2)
    results, notes = train_captured(recipe, tmp_path / "run")
    assert students(tmp_path / "run") == alone and len(alone) == 4
    assert any("4 trainings side by side" in note for note in notes)
    assert max(width for recorder in branches for width in recorder.widths) == 4
    for result in results:
        assert {name: stage["epochs"] for name, stage in result["stages"].items() if "epochs" in stage} == {
            "student": 2,
            "student-resnet14": 2,
        }


def test_one_pass_of_the_teacher(teacher, alone, captured, tmp_path, monkeypatch):
    said, plain = [0], Distill._teachers

    def counting(self, images):
        said[0] += len(images)
        return plain(self, images)

    monkeypatch.setattr(Distill, "_teachers", counting)
    train_captured(recipe_of(teacher, tmp_path / "store", 40, seeds=2), tmp_path / "run")
    assert said[0] == 2 * 128 + 2 * 40, "every image of both epochs, and the batch that was timed"


@pytest.mark.parametrize("saves", (6, pytest.param(1, marks=pytest.mark.slow)))
def test_killed_between_the_savings_of_one_epoch(saves, teacher, alone, captured, tmp_path, monkeypatch):
    plain, done = Trainer.save, [0]

    def killed(self):
        done[0] += 1
        if done[0] > saves:
            raise KeyboardInterrupt
        plain(self)

    recipe = recipe_of(teacher, tmp_path / "store", 40, seeds=2)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "save", killed)
        train_captured(recipe, tmp_path / "run")
    train_captured(recipe, tmp_path / "run")
    assert students(tmp_path / "run") == alone


def test_other_batches_are_trained_one_after_the_other(teacher, captured, tmp_path):
    recipe = recipe_of(teacher, tmp_path / "store")
    first, last = recipe.stages[1:]
    last = replace(last, training=replace(last.training, batch_size=16))
    recipe = replace(recipe, stages=(recipe.stages[0], first, last))
    _, notes = train_captured(recipe, tmp_path / "run")
    train(recipe, tmp_path / "alone")
    assert students(tmp_path / "run") == students(tmp_path / "alone")
    assert not any("side by side" in note for note in notes)


def test_what_cannot_be_captured_together_is_trained_one_after_the_other(teacher, alone, tmp_path, monkeypatch):
    class Refuses(RunAgain):
        def __init__(self, device=None):
            super().__init__()

        def record(self, work, times=1, *, beside=()):
            raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr("fastkd.training.trainer.CudaRecorder", Refuses)
    recipe = recipe_of(teacher, tmp_path / "store", 40, seeds=2)
    _, notes = train_captured(recipe, tmp_path / "run")
    assert students(tmp_path / "run") == alone
    assert any("not captured" in note for note in notes)


def test_a_loss_that_is_not_finite_names_its_training(teacher, captured, tmp_path):
    recipe = recipe_of(teacher, tmp_path / "store")
    first, last = recipe.stages[1:]
    last = replace(last, training=replace(last.training, lr=1e30))
    with pytest.raises(UserError, match="student-resnet14: the loss or its gradient was not finite"):
        train_captured(replace(recipe, stages=(recipe.stages[0], first, last)), tmp_path / "run")
