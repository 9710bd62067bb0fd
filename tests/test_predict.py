"""python -m fastkd.predict: names of classes for images that nobody has labelled."""

import csv
import importlib.util
import json

import pytest
from helpers.image_folders import write_folder

from fastkd import predict
from fastkd.support.errors import UserError


@pytest.fixture
def images(tmp_path):
    """Ten images in two folders, of which two are damaged and one is none."""
    root = write_folder(tmp_path / "images", size=(12, 10)) / "train"
    (root / "ant" / "1.png").write_bytes(b"")
    whole = (root / "bee" / "2.png").read_bytes()
    (root / "bee" / "2.png").write_bytes(whole[:60] + bytes(20) + whole[80:])
    (root / "notes.txt").write_text("no image")
    return root


def test_csv(finished, images, tmp_path, capsys):
    assert predict.main([str(finished), str(images), "--top", "2", "--out", str(tmp_path / "out.csv")]) == 1
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    assert [row["image"] for row in rows] == sorted(str(file) for file in images.rglob("*.png"))
    bad = {row["image"]: row["error"] for row in rows if row["error"]}
    assert bad.keys() == {str(images / "ant" / "1.png"), str(images / "bee" / "2.png")}
    assert bad[str(images / "ant" / "1.png")] == "is empty (0 bytes)"
    good = [row for row in rows if not row["error"]]
    assert all(float(row["probability"]) >= float(row["probability2"]) > 0 and row["class2"] for row in good)
    assert "10 of 10 images, 2 images cannot be used" in capsys.readouterr().err
    assert {file.name for file in tmp_path.iterdir()} == {"images", "out.csv"}


def test_the_standard_output_and_single_files(finished, images, capsys):
    file = str(images / "ant" / "0.png")
    assert predict.main([str(finished), file, file]) == 0
    head, first, second = capsys.readouterr().out.splitlines()
    assert head == "image,class,probability,error" and first == second and first.startswith(f"{file},")


def test_json(finished, images, tmp_path):
    assert predict.main([str(finished), str(images / "ant"), "--out", str(tmp_path / "out.json")]) == 1
    lines = [json.loads(line) for line in (tmp_path / "out.json").read_text().splitlines()]
    assert len(lines) == 5 and lines[1] == {"image": str(images / "ant" / "1.png"), "error": "is empty (0 bytes)"}
    assert list(lines[0]["classes"][0]) == ["class", "probability"]


@pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="pyarrow is not installed")
def test_parquet(finished, images, tmp_path):
    import pyarrow.parquet as parquet

    assert predict.main([str(finished), str(images / "ant"), "--out", str(tmp_path / "out.parquet"), "--top", "3"]) == 1
    rows = parquet.read_table(str(tmp_path / "out.parquet")).to_pylist()
    assert len(rows) == 5 and len(rows[0]["classes"]) == 3 and rows[1]["error"] == "is empty (0 bytes)"


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["gone", "."], "no run folder and no file gone"),
        (["{run}", "gone"], "no folder and no file gone"),
        (["{run}", ".", "--out", "out.txt"], "--out ends in .csv, .json"),
        (["{run}", ".", "--out", "gone/out.csv"], "there is no folder gone"),
        (["{run}", ".", "--network", "teachr"], "has no teachr.safetensors"),
        (["{run}", ".", "--top", "0"], "--top"),
        (["{run}"], "IMAGES"),
    ],
)
def test_mistakes_are_one_line(arguments, words, finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=words):
        predict.main([word.format(run=finished) for word in arguments])
    assert not list(tmp_path.iterdir())
