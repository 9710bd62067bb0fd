"""`python -m fastkd.evaluate` on a finished run."""

import json
import shutil

import pytest

from fastkd import evaluate


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
