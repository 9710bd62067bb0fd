"""A module that a file names is imported for nobody who has not asked for it, whatever is done with the file."""

import json
import sys

import pytest
import torch
from helpers.commands import TINY
from safetensors.torch import save_file

import fastkd
from fastkd import evaluate, report, train
from fastkd.methods import _IMPORTED
from fastkd.run.description import KEY
from fastkd.run.trust import trust
from fastkd.support.errors import UserError

EVIL = """
from pathlib import Path
from fastkd.methods.simkd import SimKD
Path(__file__).with_name("it ran").write_text("")
class X(SimKD): pass
"""


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """A folder that somebody downloaded, with a module beside the files; the program was started in it."""
    (tmp_path / "evilmod.py").write_text(EVIL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("evilmod", None)
    _IMPORTED.pop("evilmod:X", None)


@pytest.fixture
def run(evil, finished):
    """A run whose recipe and weights name the module."""
    folder = evil / "run"
    folder.mkdir()
    for name in ("recipe.json", "results.json", "metrics.jsonl"):
        (folder / name).write_bytes((finished / name).read_bytes())
    recipe = json.loads((folder / "recipe.json").read_text())
    recipe["stages"][1] |= {"method": "none+evilmod:X", "settings": {"none": {}, "evilmod:X": {"weight": 1.0}}}
    (folder / "recipe.json").write_text(json.dumps(recipe))
    own = {"network": "resnet8", "num_classes": 10, "image_size": 8}
    metadata = own | {"deployment": {"methods": {"evilmod:X": {}}, "teachers": [own]}}
    for name in ("teacher", "student"):
        save_file({"a": torch.zeros(2)}, folder / f"{name}.safetensors", {KEY: json.dumps(metadata)})
    results = json.loads((folder / "results.json").read_text())
    for stage in results["stages"].values():
        stage.pop("files", None)
    (folder / "results.json").write_text(json.dumps(results))
    return folder


USES = {
    "load_student": lambda run: fastkd.load_student(str(run)),
    "evaluate": lambda run: evaluate.main([str(run)]),
    "resume": lambda run: train.main(["--resume", str(run)]),
    "the recipe again": lambda run: train.main([str(run / "recipe.json"), "--dry-run"]),
    "a teacher": lambda run: train.main([*TINY, "--teacher", str(run), "--dry-run"]),
    "a file as a teacher": lambda run: train.main([*TINY, "--teacher", str(run / "student.safetensors"), "--dry-run"]),
}


@pytest.mark.parametrize("use", USES)
def test_nothing_is_imported(use, run):
    with pytest.raises(UserError, match="'evilmod:X' is code outside of fastkd: nothing that a file names is imported"):
        USES[use](run)
    assert "evilmod" not in sys.modules and not (run.parent / "it ran").exists()


def test_a_report_shows_it_and_imports_nothing(run):
    assert report.main([str(run)]) == 0
    assert "none+x" in (run / "report.html").read_text()
    assert "evilmod" not in sys.modules


def test_who_trusts_the_run_is_told_what_is_imported(run):
    told = []
    trust(run, told.append)
    assert told == [f"imports evilmod:X, which {run / 'recipe.json'} names"]
    assert (run.parent / "it ran").exists()
    trust(run, told.append)
    assert len(told) == 1, "it is imported once"


def test_so_do_commands_and_load_student(run, capsys):
    with pytest.raises(UserError, match="simkd|does not fit"):  # the weights are none, but the network is built
        train.main([*TINY, "--teacher", str(run), "--trust", str(run), "--dry-run"])
    assert "fastkd: imports evilmod:X, which " in capsys.readouterr().err
    with pytest.raises(UserError, match="does not fit"):
        fastkd.load_student(str(run), trust=True)


def test_what_the_command_line_names_is_imported(run):
    with pytest.raises(UserError) as raised:
        train.main(["--resume", str(run), "--method", "none+evilmod:X"])
    assert "outside of fastkd" not in str(raised.value) and "evilmod" in sys.modules


def test_a_place_where_nothing_is(tmp_path):
    with pytest.raises(UserError, match="--trust .*gone: there is nothing"):
        trust(tmp_path / "gone", print)


def test_a_data_set_of_a_program(run, monkeypatch):
    recipe = json.loads((run / "recipe.json").read_text())
    recipe["stages"][1] |= {"method": "kd", "settings": {"kd": {}}}
    (run / "recipe.json").write_text(json.dumps(recipe | {"data": "evilmod:X"}))
    with pytest.raises(UserError, match="'evilmod:X' is code outside of fastkd: nothing that a file names is imported"):
        evaluate.main([str(run)])
    assert "evilmod" not in sys.modules
    told = []
    monkeypatch.setattr("fastkd.data.objects._IMPORTED", {})
    trust(run / "recipe.json", told.append)
    assert told == [f"imports evilmod:X, which {run / 'recipe.json'} names"] and "evilmod" in sys.modules
