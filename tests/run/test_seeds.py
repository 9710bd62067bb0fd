"""Several seeds in one run folder: with stored teachers the first seed's teach all of them."""

import json
from dataclasses import replace

import pytest
from helpers.recorders import RunAgain
from helpers.stored import loaded, student_of
from helpers.tiny import Quiet, job_of, tiny_recipe, train

from fastkd.recipes.recipe import Recipe
from fastkd.recipes.several import shared_teachers
from fastkd.run import carry_out, create_folder
from fastkd.run.figures import print_table, rows
from fastkd.run.run import Run
from fastkd.stored import Storing
from fastkd.support.session import Session
from fastkd.training.execution import EVERYTHING_OFF


def recipe_of(store, **changes) -> Recipe:
    """A student-friendly teacher and its student, for two seeds that see the same crops."""
    base = tiny_recipe(seeds=2, data_seed=0)
    return replace(base, stages=base.stages[:2], storing=Storing(teacher_outputs=store), **changes)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """The folder and the results of both seeds."""
    folder = tmp_path_factory.mktemp("shared")
    return folder, train(recipe_of(folder / "store"), folder / "run", display=Quiet())


def test_one_teacher_is_trained_and_teaches_every_seed(shared, tmp_path):
    folder, results = shared
    teacher = folder / "run/seed-0/teacher.safetensors"
    assert teacher.read_bytes() == (folder / "run/seed-1/teacher.safetensors").read_bytes()
    assert "file" not in results[0]["stages"]["teacher"]
    assert results[1]["stages"]["teacher"]["file"] == str(teacher)
    for seed in (0, 1):
        recipe = recipe_of(None, seed=seed)
        alone = replace(recipe, stages=(loaded(teacher), recipe.stages[1]), seeds=1, storing=Storing())
        train(alone, tmp_path / f"{seed}")
        assert student_of(tmp_path / f"{seed}") == student_of(folder / f"run/seed-{seed}")


def test_the_table_says_so_and_counts_the_teacher_once(shared, capsys):
    folder, results = shared
    recipe = recipe_of(folder / "store")
    by_name = {row.name: row.top1 for row in rows(recipe, results)}
    assert len(by_name) == 4 and by_name["teacher"].std is None and by_name["student"].std is not None
    print_table(recipe, results, folder)
    printed = " ".join(capsys.readouterr().out.split())
    assert "the teacher of seed 0 taught every seed" in printed
    assert "the spread is that of weights and draws alone" in printed


def test_what_a_seed_did_stands_in_its_own_recipe(shared):
    """A later seed's run, by itself, is one of a teacher that was given."""
    folder, _ = shared
    first, second = (json.loads((folder / f"run/seed-{seed}/recipe.json").read_text()) for seed in (0, 1))
    assert first["stages"][0]["training"] is not None and first["seed"] == 0
    assert second["stages"][0]["training"] is None and second["seed"] == 1
    assert second["stages"][0]["file"].endswith("seed-0/teacher.safetensors")


@pytest.mark.parametrize("stages", (pytest.param(1, marks=pytest.mark.slow), 3))
def test_killed_moved_and_begun_again(stages, shared, tmp_path, monkeypatch):
    """Killed when so many stages of the two seeds are finished."""
    plain, done = Run.conclude, [0]

    def killed(self, *arguments):
        plain(self, *arguments)
        done[0] += 1
        if done[0] == stages:
            raise KeyboardInterrupt

    recipe = recipe_of(tmp_path / "store")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Run, "conclude", killed)
        train(recipe, tmp_path / "run")
    (tmp_path / "run").rename(tmp_path / "moved")
    train(recipe, tmp_path / "moved")
    for seed in (0, 1):
        assert student_of(tmp_path / f"moved/seed-{seed}") == student_of(shared[0] / f"run/seed-{seed}")


@pytest.mark.slow
def test_side_by_side(shared, tmp_path, monkeypatch):
    """Without a GPU a replay runs what was recorded again."""

    class Recorder(RunAgain):
        def __init__(self, device=None):
            super().__init__()

    monkeypatch.setattr("fastkd.training.trainer.CudaRecorder", Recorder)
    recipe, display = recipe_of(tmp_path / "store"), Quiet()
    create_folder(tmp_path / "run", recipe)
    carry_out(job_of(recipe, EVERYTHING_OFF._replace(capture=True)), tmp_path / "run", Session(display))
    assert any("2 trainings side by side" in note for note in display.notes)
    for seed in (0, 1):
        assert student_of(tmp_path / f"run/seed-{seed}") == student_of(shared[0] / f"run/seed-{seed}")


def test_without_a_store_or_with_one_seed_every_seed_has_its_own():
    assert shared_teachers(recipe_of("store")) == ("teacher",)
    assert shared_teachers(recipe_of("store", seeds=1)) == ()
    assert shared_teachers(replace(recipe_of("store"), storing=Storing())) == ()
