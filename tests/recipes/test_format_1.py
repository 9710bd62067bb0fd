"""What fastkd 0.1 wrote: recipes, runs and checkpoints of format 1, made by its last commit (74dd583)."""

import json
import shutil

import pytest
from helpers.golden import GOLDEN
from helpers.tiny import Quiet, train

from fastkd import evaluate, report
from fastkd.recipes import format_1
from fastkd.recipes.course import course
from fastkd.recipes.recipe import plain_to_recipe
from fastkd.run import load_network, open_run
from fastkd.support.plain import to_plain, with_defaults
from fastkd.train import main

WRITTEN = json.loads((GOLDEN / "format_1" / "stages.json").read_text())
RUNS = [name for name, found in WRITTEN.items() if "recipe" in found]


@pytest.fixture
def run(tmp_path):
    """A run that was stopped in the student's first epoch."""
    return shutil.copytree(GOLDEN / "format_1" / "run", tmp_path / "run")


@pytest.mark.parametrize("name", RUNS)
def test_what_its_stages_were_made_with_is_what_their_recipe_says_today(name):
    recipe = plain_to_recipe(WRITTEN[name]["recipe"], "here")
    identities = {stage: format_1.identity(found) for stage, found in WRITTEN[name]["identities"].items()}
    for planned in course(recipe):
        then = with_defaults(identities[planned.name], {"stage": planned})["stage"]
        assert then == {"kind": planned.kind, **to_plain(planned)}


def test_the_kinds_are_all_there():
    kinds = {found["stage"]["kind"] for name in RUNS for found in WRITTEN[name]["identities"].values()}
    assert kinds == {"supervised", "student_aware", "distill", "loaded", "prestage", "mutual"}


def test_it_is_resumed(run, capsys):
    assert main(["--resume", str(run)]) == 0
    last, expected = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1]), WRITTEN["last record of the run"]
    assert last["train"] == pytest.approx(expected["train"], rel=1e-4)
    assert (last["stage"], last["epoch"]) == (expected["stage"], expected["epoch"])
    train(open_run(run), run, display=(display := Quiet()))
    assert display.notes == ["teacher  finished before", "student  finished before"]


def test_it_is_evaluated_and_reported(run, capsys):
    assert main(["--resume", str(run)]) == 0
    capsys.readouterr()
    assert evaluate.main([str(run), "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    results = json.loads((run / "results.json").read_text())["stages"]
    assert measured["teacher"]["top1"] == results["teacher"]["test"]["teacher"]["top1"]
    assert report.main([str(run)]) == 0
    assert "stages[student].method" in (run / "report.html").read_text()


def test_its_teacher_is_taken(run, tmp_path):
    short = ["--seeds", "1", "--limit-train", "64", "--epochs", "1", "--threads", "1", "--control", "off"]
    assert main([*short, "--teacher", str(run), "--run", str(tmp_path / "second")]) == 0
    taken, own = (load_network(folder, "teacher").state_dict() for folder in (tmp_path / "second", run))
    assert all((taken[name] == own[name]).all() for name in own)


def test_its_recipe_is_given_back(run, tmp_path):
    again = ["--limit-train", "64", "--run", str(tmp_path / "again")]
    assert main([str(run / "recipe.json"), *again]) == 0
    assert json.loads((tmp_path / "again" / "recipe.json").read_text())["format"] == 2
