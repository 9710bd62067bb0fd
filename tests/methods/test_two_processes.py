"""Methods with stages of their own in two processes: the same as one that forwards the two shards."""

import json
from pathlib import Path

import pytest
import torch
from helpers.processes import finish, parameters, start

from fastkd import train

CASES = {
    "kd+ft+sskd": (["--ft.epochs", "1", "--sskd.epochs", "1"], ["student-ft", "student-sskd", "student"]),
    "kdcl": (["--kdcl.target", "general"], ["student", "teacher"]),
    "sckd": (["--sckd.least-cosine", "0.1"], ["student"]),
    "simkd": ([], ["student"]),
}


SHORT = ["--seeds", "1", "--limit-train", "128", "--epochs", "1", "--threads", "1", "--control", "off"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """One for both: BatchNorm's running statistics, which it uses when it teaches, are those of a rank's own shards."""
    folder = tmp_path_factory.mktemp("teacher") / "run"
    assert (
        train.main([*SHORT, "--teacher-net", "wrn_16_1", "--teacher-training", "standard", "--run", str(folder)]) == 0
    )
    return folder


def records(folder: Path):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("method", [pytest.param(method, marks=pytest.mark.slow) for method in CASES])
def test_two_processes_equal_one_that_forwards_the_two_shards(method, teacher, tmp_path):
    more, names = CASES[method]
    how = [*SHORT, "--method", method, *more]
    how += ["--teacher-net", "resnet8"] if "teacher" in names else ["--teacher", str(teacher)]
    finish(start(*how, "--run", tmp_path / "two"))
    assert train.main([*how, "--accumulate", "2", "--run", str(tmp_path / "one")]) == 0
    for mine, theirs in zip(records(tmp_path / "two"), records(tmp_path / "one"), strict=True):
        assert mine["stage"] == theirs["stage"]
        assert mine["train"] == pytest.approx(theirs["train"], rel=1e-4)
    for name in names:
        folders = [tmp_path / run / ("checkpoints" if "-" in name else "") for run in ("two", "one")]
        two, one = (parameters(folder, name) for folder in folders)
        for key, value in one.items():
            torch.testing.assert_close(two[key], value, rtol=1e-3, atol=1e-5, msg=lambda m, k=key: f"{k}: {m}")
