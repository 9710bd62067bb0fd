"""timm's networks in whole runs: a Vision Transformer teaches a convolutional network, branches of one are grafted."""

import json

import pytest
import torch
from helpers.real_data import REAL, needs_real_data

timm = pytest.importorskip("timm", reason="timm is not installed")

import fastkd  # noqa: E402
from fastkd import evaluate, train  # noqa: E402
from fastkd.networks import outside  # noqa: E402
from fastkd.support.errors import UserError  # noqa: E402

VIT = "timm:vit_tiny_patch16_224?patch_size=2&depth=4&embed_dim=24&num_heads=3"
CNN = "timm:mobilenetv3_small_050"
SHORT = [
    "--seeds",
    "1",
    "--limit-train",
    "64",
    "--batch-size",
    "32",
    "--epochs",
    "1",
    "--threads",
    "1",
    "--control",
    "off",
]
FEW = ["--crd.negatives", "16"]


def run(folder, *options):
    assert train.main([*SHORT, *options, "--run", str(folder)]) == 0
    return json.loads((folder / "results.json").read_text())


def test_a_vision_transformer_teaches_a_network_of_timms(tmp_path):
    plain = ["--teacher-training", "standard", "--teacher-net", VIT, "--student", CNN]
    results = run(tmp_path / "run", *plain, "--method", "kd+fitnet+crd", *FEW)
    assert results["similarity"]["student"].keys() == {"kl", "cka", "agreement"}
    names = dict(timm.create_model("mobilenetv3_small_050", num_classes=10).state_dict())
    student = fastkd.load_student(str(tmp_path / "run"))
    assert student.PUBLIC_NAMES.keys() == student.state_dict().keys()
    assert set(student.PUBLIC_NAMES.values()) == names.keys()


@pytest.mark.slow
def test_a_class_tokens_teacher_is_reused_by_its_vector(tmp_path, monkeypatch):
    plain = ["--teacher-training", "standard", "--teacher-net", VIT, "--student", CNN]
    run(tmp_path / "reused", *plain, "--method", "simkd")
    monkeypatch.setattr(outside, "_ADMITTED", {})
    with pytest.raises(UserError, match="code outside of fastkd"):
        fastkd.load_student(str(tmp_path / "reused"))
    student = fastkd.load_student(str(tmp_path / "reused"), trust=True)
    assert student.head.pool[1].projectors[0].weight.shape == (24, 288), "SimKD's vector form"
    assert evaluate.main([str(tmp_path / "reused")]) == 0


@pytest.mark.slow
def test_branches_of_timms_networks_are_grafted(tmp_path):
    results = run(tmp_path / "run", "--teacher-net", "timm:regnetx_002", "--student", CNN)
    assert results["stages"]["teacher"]["test"].keys() == {"teacher", "branch 1", "branch 2", "branch 3"}


@pytest.mark.slow
@needs_real_data
@pytest.mark.parametrize("method", ["kd", "kd+fitnet", "kd+crd", "simkd"])
def test_on_real_images(tmp_path, method):
    vit = "timm:vit_tiny_patch16_224?patch_size=8&depth=4&embed_dim=96&num_heads=3"
    data = [
        "--data",
        f"imagefolder:{REAL / 'tiny-imagenet-20'}",
        "--image-size",
        "32",
        "--seeds",
        "1",
        "--crop",
        "resized",
    ]
    how = [
        "--teacher-training",
        "standard",
        "--epochs",
        "2",
        "--batch-size",
        "64",
        "--optimizer",
        "adamw",
        "--lr",
        "1e-3",
    ]
    options = [*data, *how, "--teacher-net", vit, "--student", "timm:mobilenetv3_small_050", "--method", method]
    options += ["--crd.negatives", "256"] if "crd" in method else []
    assert train.main([*options, "--control", "off", "--threads", "1", "--run", str(tmp_path / "run")]) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert torch.isfinite(torch.tensor(list(results["similarity"]["student"].values()))).all()
    counts = results["stages"]["student"]["test"]["student"]
    assert counts["top1"] > counts["samples"] / 20, "no better than chance"
