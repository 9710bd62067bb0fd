"""What a run has left in its folder. Names of seed folders are also in tests/test_fuzz_files.py."""

import json
import shutil

import pytest
from helpers.tiny import tiny_recipe, train

from fastkd import evaluate
from fastkd.options import parse, recipe_of
from fastkd.run import load_network
from fastkd.run.left import known_digest, read_results
from fastkd.support.errors import UserError
from fastkd.support.files import sha256


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
