"""Runs with networks of others: taught, teaching, saved, evaluated, exported, resumed."""

import json

import pytest
import torch
from helpers.commands import mistake

import fastkd
from fastkd import evaluate, train
from fastkd.networks import outside
from fastkd.support.errors import UserError

THREE = "helpers.own_networks:three_lines"
PLAIN = ["--teacher-training", "standard"]
BARE = ["--seeds", "1", "--limit-train", "128", "--epochs", "1", "--threads", "1", "--control", "off"]
SHORT = [*BARE, *PLAIN]


@pytest.fixture
def plain(tmp_path):
    """A run whose teacher is a plain module."""
    folder = tmp_path / "run"
    assert train.main([*SHORT, "--teacher-net", THREE, "--student", "resnet8", "--run", str(folder)]) == 0
    return folder


def forget(monkeypatch):
    monkeypatch.setattr(outside, "_ADMITTED", {})


def test_a_plain_modules_logits_are_stored(plain, tmp_path):
    given = [*BARE, "--teacher", str(plain), "--teacher-net", THREE, "--student", "resnet8"]
    for run in ("one", "two"):
        assert train.main([*given, "--teacher-outputs", str(tmp_path / "store"), "--run", str(tmp_path / run)]) == 0
    one, two = ((tmp_path / run / "student.safetensors").read_bytes() for run in ("one", "two"))
    assert one == two


def test_a_plain_module_teaches(plain, monkeypatch, capsys):
    results = json.loads((plain / "results.json").read_text())
    assert results["similarity"]["student"].keys() == {"kl", "agreement"}
    forget(monkeypatch)
    with pytest.raises(UserError, match="code outside of fastkd"):
        evaluate.main([str(plain)])
    assert evaluate.main([str(plain), "--trust", str(plain)]) == 0
    assert f"imports {THREE}, which" in capsys.readouterr().err
    forget(monkeypatch)
    assert "--trust" in mistake("--resume", plain)
    assert train.main(["--resume", str(plain), "--trust", str(plain)]) == 0
    forget(monkeypatch)
    assert "code outside of fastkd" in mistake(*SHORT, "--teacher", plain, "--student", "resnet8")


@pytest.mark.filterwarnings("ignore:The given buffer is not writable")  # torch.export.load
def test_a_plain_module_learns_and_is_exported(tmp_path, monkeypatch):
    run, out = tmp_path / "run", tmp_path / "it.pt2"
    given = ["--teacher-net", "resnet8", "--student", THREE, "--student-features", "2,3,5"]
    method = ["--method", "fitnet+crd+at", "--crd.negatives", "16", "--fitnet.block", "1"]
    assert train.main([*SHORT, *given, *method, "--run", str(run)]) == 0
    forget(monkeypatch)
    assert evaluate.main([str(run), "--trust", str(run), "--export", str(out)]) == 0
    student = fastkd.load_student(str(run), trust=True)
    images = torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        assert torch.allclose(torch.export.load(out).module()(images), student(images).logits, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--student", THREE, "--method", "fitnet"], f"fitnet: it needs features of {THREE}"),
        (["--student", THREE, "--method", "sp"], "needs features of"),
        (["--student", THREE, "--method", "simkd"], "simkd: it needs"),
        (["--student", THREE, "--method", "oh"], "needs"),
        (["--student", THREE, "--teacher-training", "sftn", "--method", "kd"], "branches .* a stem, blocks and a head"),
        (["--student-features", "2"], "--student-features goes with --student"),
        (["--student", "resnet8", "--student-features", "2"], "resnet8 gives the features of its blocks"),
        (["--student", "helpers.own_networks:nope"], "cannot import the network"),
    ],
)
def test_what_a_network_does_not_give_is_refused_before_anything_is_trained(tmp_path, options, words):
    run = tmp_path / "run"
    with pytest.raises(UserError, match=words) as raised:
        train.main(
            [
                *BARE,
                *([] if "--teacher-training" in options else PLAIN),
                "--teacher-net",
                "resnet8",
                *options,
                "--run",
                str(run),
            ]
        )
    assert "\n" not in str(raised.value) and not run.exists()
