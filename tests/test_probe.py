"""`python -m fastkd.probe` on a finished run."""

import json

import numpy as np
import pytest

from fastkd import probe
from fastkd.support.errors import UserError

SHORT = ["--epochs", "3", "--batch-size", "32"]


def test_on_its_own_data(finished, capsys):
    assert probe.main([str(finished), *SHORT, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["stage"], found["network"], found["data"]) == ("student", "resnet8", "digits")
    assert len(found["curve"]) == 3 and found["samples"] == 899 and found["top1"] > 0
    assert probe.main([str(finished), *SHORT, "--stage", "teacher"]) == 0
    assert "a linear classifier of digits on frozen features, 899 test images" in capsys.readouterr().out


def test_on_data_with_other_classes_and_pixels(finished, tmp_path, capsys):
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        rng.integers(0, 256, (40, 3, 96, 96), dtype=np.uint8).tofile(tmp_path / f"{part}_X.bin")
        np.tile(np.arange(1, 11, dtype=np.uint8), 4).tofile(tmp_path / f"{part}_y.bin")
    data = ["--data", f"stl10:{tmp_path}", "--limit-train", "33"]
    assert probe.main([str(finished), *SHORT, *data, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["data"] == "stl10" and found["classes"] == 10 and found["samples"] == 40


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--stage", "studend"], r"has no studend\.safetensors"),
        (["--milestones", "--factor", "0.2"], "milestones"),
        (["--data", "stl11:x"], "no data set 'stl11'; did you mean 'stl10'"),
        (["--epochs", "0"], "expected"),
        (["--augment", "crops"], "augment"),
    ],
)
def test_mistakes(arguments, words, finished):
    with pytest.raises(UserError, match=words):
        probe.main([str(finished), *arguments])
