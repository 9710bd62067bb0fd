"""Training on image files by the command, and resuming it."""

import json

import pytest
import torch
from helpers.image_folders import LOADERS, needs_dali, write_folder
from helpers.real_data import REAL, needs_real_data

from fastkd import evaluate, train
from fastkd.run import load_network
from fastkd.support.errors import UserError
from fastkd.support.files import read_json
from fastkd.support.log import read_metrics

NETWORKS = ["--teacher-net", "resnet8", "--student", "resnet8"]
SHORT = [*NETWORKS, "--epochs", "1", "--batch-size", "16", "--image-size", "32", "--threads", "1", "--workers", "1"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("data"), size=None, per_class=20, tests=5, ending="jpg")


def trained(root, folder, *options):
    assert train.main(["imagenet-sftn", "--data", f"imagefolder:{root}", *SHORT, *options, "--run", str(folder)]) == 0
    return read_json(folder / "results.json")


@needs_dali
@needs_real_data
def test_both_stages_on_real_images_through_dali(tmp_path, capsys):
    results = trained(REAL / "tiny-imagenet-20", tmp_path / "run", "--loader", "dali", "--limit-train", "64")
    assert read_json(tmp_path / "run" / "recipe.json")["reading"]["loader"] == "dali"
    for name in ("teacher", "student"):
        assert results["stages"][name]["test"][name]["samples"] == 1000
    assert len(list((tmp_path / "run").glob("index-*.npz"))) == 2


@pytest.mark.parametrize("loader", LOADERS)
def test_evaluate_agrees_with_the_run(root, tmp_path, capsys, loader):
    results = trained(root, tmp_path / "run", "--loader", loader)
    capsys.readouterr()
    assert evaluate.main([str(tmp_path / "run"), "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    for name in ("teacher", "student"):
        tested = results["stages"][name]["test"][name]
        assert {key: measured[name][key] for key in ("top1", "top5", "samples")} == tested
        assert tested["samples"] == 10


@pytest.mark.parametrize("loader", LOADERS)
def test_workers_change_no_weight(root, tmp_path, loader):
    for name, workers in (("one", "1"), ("two", "2")):
        trained(root, tmp_path / name, "--loader", loader, "--workers", workers)
    first, second = (load_network(tmp_path / name, "student").state_dict() for name in ("one", "two"))
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("loader", LOADERS)
def test_a_method_gets_the_views_that_it_names(root, tmp_path, loader):
    """Four rotations for SSKD, of which the student's head and the teacher's learn."""
    method = ["--method", "kd+sskd", "--sskd.epochs", "1", "--teacher-training", "standard"]
    results = trained(root, tmp_path / "run", "--loader", loader, *method)
    assert list(results["stages"]) == ["teacher", "student-sskd", "student"]
    losses = [record["train"] for record in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    assert losses[1]["contrast"] > 0 and losses[2]["sskd.ss"] > 0


def test_a_bad_image_is_an_error_or_told(tmp_path, capsys):
    root = write_folder(tmp_path / "data", size=None, per_class=20, tests=5, ending="jpg")
    (root / "train" / "ant" / "3.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"1 image cannot be used .*3\.jpg is empty"):
        trained(root, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    trained(root, tmp_path / "run", "--max-bad-images", "1")
    assert "3.jpg is empty (0 bytes): left out" in capsys.readouterr().err


def test_a_dry_run_and_resident_off(root, capsys):
    options = ["--crop", "pad", "--resident", "off", "--dry-run"]
    assert train.main(["imagenet-sftn", "--data", f"imagefolder:{root}", *SHORT, *options]) == 0
    assert "images/s" in capsys.readouterr().out


def test_dali_that_is_not_installed(root, tmp_path, monkeypatch):
    find_spec = __import__("importlib.util").util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if "dali" in name else find_spec(name))
    with pytest.raises(UserError, match="--loader dali: DALI is not installed: pip install"):
        trained(root, tmp_path / "run", "--loader", "dali")
    trained(root, tmp_path / "run")
    assert read_json(tmp_path / "run" / "recipe.json")["reading"]["loader"] == "torchvision"
