"""python -m fastkd.predict: names of classes for images that nobody has labelled."""

import csv
import importlib.util
import json

import numpy as np
import pytest
import torch
from helpers.image_folders import write_folder
from PIL import Image

from fastkd import networks, predict
from fastkd.api import predict as predict_in_python
from fastkd.run.description import Description
from fastkd.run.weights import save_network
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


def test_images_are_squeezed_where_the_training_was_tested_so(tmp_path):
    file = tmp_path / "it.safetensors"
    torch.manual_seed(0)
    network = networks.build("resnet8x4", num_classes=3).eval()
    about = Description("resnet8x4", 3, 16, mean=(0.5,) * 3, std=(0.2,) * 3, crop="squeezed")
    save_network(file, network, about)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 40, 3), dtype=np.uint8))
    picture.save(tmp_path / "wide.png")
    (found,) = predict_in_python(file, tmp_path / "wide.png", top=3)
    squeezed = picture.resize((18, 18), Image.Resampling.BILINEAR).crop((1, 1, 17, 17))
    pixels = torch.from_numpy(np.array(squeezed)).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        shares = network((pixels - 0.5) / 0.2).logits.softmax(1)[0]
    assert found.probabilities == pytest.approx(shares.sort(descending=True).values.tolist(), abs=1e-5)


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
