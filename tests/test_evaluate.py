"""`python -m fastkd.evaluate` on a finished run."""

import json
import shutil

import pytest
import torch

import fastkd
from fastkd import evaluate
from fastkd.support.errors import UserError


def test_evaluate_agrees_with_the_run(finished, capsys):
    assert evaluate.main([str(finished), "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    results = json.loads((finished / "results.json").read_text())
    for name in ("teacher", "student", "control"):
        tested = results["stages"][name]["test"][name]
        assert {key: measured[name][key] for key in ("top1", "top5", "samples")} == tested
    for name in ("student", "control"):
        for key in ("kl", "cka", "agreement"):
            assert measured[name][key] == pytest.approx(results["similarity"][name][key], rel=1e-6)
    assert evaluate.main([str(finished)]) == 0
    assert "KL to" in capsys.readouterr().out


def test_evaluate_takes_all_seeds_of_a_run(finished, tmp_path, capsys):
    for seed in (0, 1):
        shutil.copytree(finished, tmp_path / f"seed-{seed}")
    assert evaluate.main([str(tmp_path)]) == 0
    results = json.loads((finished / "results.json").read_text())
    counts = results["stages"]["student"]["test"]["student"]
    shown = capsys.readouterr().out
    assert "mean ± std over 2 seeds" in shown and f"{100 * counts['top1'] / counts['samples']:.2f} ± 0.00" in shown
    assert evaluate.main([str(tmp_path), "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == ["seed-0", "seed-1"]


@pytest.mark.parametrize("name", ("it.pt", "it.PT2.zip", "gone/it.pt2"))
def test_what_cannot_be_exported_is_refused_before_anything_is_measured(name, finished, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "evaluated", lambda *arguments: pytest.fail("it was measured"))
    words = "no folder" if name.startswith("gone") else "no other kind"
    with pytest.raises(UserError, match=words):
        evaluate.main([str(finished), "--export", str(tmp_path / name)])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options, words",
    [
        (["--preprocess"], "--preprocess changes nothing"),
        (["--int8"], "--int8 changes nothing"),
        (["--export", "out", "--preprocess"], "a folder holds weights"),
        (["--export", "it.pt2", "--int8"], "--int8 goes with"),
        (["--export", "file"], "it is no folder"),
    ],
)
def test_options_of_an_export(options, words, finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(evaluate, "evaluated", lambda *arguments: pytest.fail("it was measured"))
    with pytest.raises(UserError, match=words):
        evaluate.main([str(finished), *options])


def test_a_folder_says_what_it_holds(finished, tmp_path):
    assert evaluate.main([str(finished), "--export", str(tmp_path / "birds")]) == 0
    assert {file.name for file in (tmp_path / "birds").iterdir()} == {"README.md", "config.json", "model.safetensors"}
    config = json.loads((tmp_path / "birds" / "config.json").read_text())
    assert config["num_classes"] == 10 and config["pretrained_cfg"]["input_size"] == [3, 8, 8]
    card = (tmp_path / "birds" / "README.md").read_text()
    assert "| teacher | resnet8, top-1 " in card and "library_name: fastkd" in card and "| method | kd |" in card
    images = torch.randn(4, 3, 8, 8)
    ours, theirs = fastkd.load_student(str(finished)), fastkd.load_student(str(tmp_path / "birds"))
    assert torch.equal(ours(images).logits, theirs(images).logits)


def test_an_export_says_what_it_wrote_and_leaves_standard_output_alone(finished, tmp_path, capsys):
    assert evaluate.main([str(finished), "--json", "--export", str(tmp_path / "it.pt2")]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out) and "it.pt2: the student as a torch.export program" in shown.err
    assert "[any number, 3, 8, 8]" in shown.err and (tmp_path / "it.pt2").is_file()
