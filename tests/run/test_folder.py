"""The folder of a run: who may write in it, and what it says of its files."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.tiny import Quiet, tiny_recipe, train

from fastkd import evaluate
from fastkd.options import parse, recipe_of
from fastkd.run import create_folder, folder_of_job, load_network
from fastkd.run import folder as module
from fastkd.run.folder import known_digest, read_results
from fastkd.support.errors import UserError
from fastkd.support.files import sha256
from fastkd.support.locks import locked


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("left") / "run"
    train(tiny_recipe(keep_epochs=(1,)), folder)
    return folder


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def weights(folder):
    return sorted(folder.rglob("*.safetensors"))


def test_every_weights_file_of_a_run_is_known_by_its_digest(finished):
    assert len(weights(finished)) == 6
    assert all(known_digest(file) == sha256(file) for file in weights(finished))


def test_a_file_that_no_run_wrote_is_not_known(run):
    stranger = run / "stranger.safetensors"
    shutil.copy(run / "teacher.safetensors", stranger)
    assert known_digest(stranger) is None
    (run / "results.json").unlink()
    assert known_digest(run / "teacher.safetensors") is None


def swapped(run):
    shutil.copy(run / "control.safetensors", run / "teacher.safetensors")


def bit_flipped(run):
    content = bytearray((run / "teacher.safetensors").read_bytes())
    content[len(content) // 2] ^= 4
    (run / "teacher.safetensors").write_bytes(content)


def shortened(run):
    content = (run / "teacher.safetensors").read_bytes()
    (run / "teacher.safetensors").write_bytes(content[: len(content) // 2])


USES = {
    "resumed": lambda run: train(tiny_recipe(keep_epochs=(1,)), run),
    "evaluated": lambda run: evaluate.main([str(run)]),
    "loaded": lambda run: load_network(run, "teacher"),
    "taken as a teacher": lambda run: recipe_of(parse(["--teacher", str(run)])),
}


@pytest.mark.parametrize("damage", (swapped, bit_flipped, shortened))
@pytest.mark.parametrize("use", USES)
def test_damage_is_noticed_wherever_weights_are_used(use, damage, run):
    damage(run)
    with pytest.raises(UserError, match=r"teacher\.safetensors is not what the run wrote: damaged, or replaced"):
        USES[use](run)


def test_results_of_another_shape_are_one_line(run):
    results = json.loads((run / "results.json").read_text())
    del results["stages"]["teacher"]["test"]
    (run / "results.json").write_text(json.dumps(results))
    with pytest.raises(UserError, match=r"results\.json\.stages\.teacher lacks the entry 'test'"):
        read_results(run / "results.json")


def one_stage(**changes):
    recipe = tiny_recipe(**changes)
    return replace(recipe, stages=recipe.stages[:1])


class TestTwoAtOnce:
    def test_of_two_that_begin_one_gets_the_folder(self, tmp_path, monkeypatch):
        """The second looks before the first has written its recipe, and writes none over it."""
        looks = iter((False, True))
        create_folder(tmp_path, one_stage())
        before = (tmp_path / "recipe.json").read_bytes()
        monkeypatch.setattr(module, "holds_run", lambda folder: next(looks))
        with pytest.raises(UserError, match="holds a run that another process has just begun"):
            create_folder(tmp_path, one_stage(seed=1))
        assert (tmp_path / "recipe.json").read_bytes() == before

    def test_a_folder_in_which_somebody_trains_is_no_place_to_begin(self, tmp_path):
        with locked(tmp_path), pytest.raises(UserError, match="another process is training in"):
            create_folder(tmp_path, one_stage())
        assert not (tmp_path / "recipe.json").exists()

    @pytest.mark.parametrize("seed", (0, 1))
    def test_a_seeds_folder_is_held_with_the_runs_and_the_other_way_round(self, seed, tmp_path):
        create_folder(tmp_path, one_stage(seeds=2))
        own = tmp_path / f"seed-{seed}"
        own.mkdir()
        with locked(own), pytest.raises(UserError, match=f"another process is training in .*seed-{seed}"):
            train(one_stage(seeds=2), tmp_path)
        assert not list(tmp_path.rglob("*.jsonl")), "nothing was written before"
        seen = []

        class Looking(Quiet):
            def note(self, text):
                with pytest.raises(UserError, match="another process"), locked(own):
                    pass
                seen.append(text)

        train(one_stage(seeds=2), tmp_path, display=Looking())
        assert seen


class TestTheFolderOfAJob:
    """It is all that a job which is queued again has to find its run by."""

    words = ("digits", "--method", "kd")

    def test_outside_of_a_job_there_is_none(self, monkeypatch):
        monkeypatch.delenv("SLURM_JOB_ID", raising=False)
        assert folder_of_job(self.words, "digits") is None

    def test_it_is_of_the_job_and_of_the_command(self, monkeypatch):
        found = set()
        for job in ("7", "8"):
            monkeypatch.setenv("SLURM_JOB_ID", job)
            for words in (self.words, (*self.words, "--seed", "1")):
                folder = folder_of_job(words, "digits")
                assert folder == folder_of_job(words, "digits")
                assert folder.parent == Path("runs") and folder.name.startswith(f"digits-job-{job}-")
                found.add(folder)
        assert len(found) == 4

    def test_each_task_of_an_array_has_its_own(self, monkeypatch):
        """SLURM_JOB_ID is a number of its own there, another one for each task."""
        for name, value in (("JOB_ID", "12"), ("ARRAY_JOB_ID", "9"), ("ARRAY_TASK_ID", "3")):
            monkeypatch.setenv(f"SLURM_{name}", value)
        assert folder_of_job(self.words, "runs/a/recipe.json").name.startswith("recipe-job-9_3-")

    def test_a_name_that_is_no_name_is_one_line(self, monkeypatch):
        monkeypatch.setenv("SLURM_JOB_ID", "../../x")
        with pytest.raises(UserError, match="SLURM_JOB_ID is '../../x', expected a job's number; or give --run"):
            folder_of_job(self.words, "digits")
