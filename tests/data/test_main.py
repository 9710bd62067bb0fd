"""python -m fastkd.data inspect"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.image_folders import write_folder
from helpers.places import ROOT
from PIL import Image

from fastkd.data import Reading, open_dataset
from fastkd.data.__main__ import main
from fastkd.support.errors import UserError


@pytest.fixture
def root(tmp_path):
    return write_folder(tmp_path / "data", size=None, ending="jpg", per_class=6)


def inspected(capsys, *arguments):
    code = main(["inspect", *map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_bad_files_are_all_named(root, tmp_path, capsys):
    empty, broken = root / "train" / "ant" / "1.jpg", root / "train" / "bee" / "2.jpg"
    empty.write_bytes(b"")
    content = broken.read_bytes()
    broken.write_bytes(content[:-200] + content[-2:])  # its end is there, some of its middle is not
    (root / "val" / "ant" / "notes.txt").write_text("")
    code, about = inspected(capsys, root, "--out", tmp_path / "sheet.png")
    assert code == 1 and about["bad"] == {str(empty): "is empty (0 bytes)"}
    assert "notes.txt" in about["notes"][0]


def test_verify_decodes_all_of_it(root, tmp_path, capsys):
    odd = root / "train" / "bee" / "2.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8)).save(odd, "PNG")
    content = odd.read_bytes()
    odd.write_bytes(content[:60] + bytes(200) + content[260:])
    assert inspected(capsys, root, "--out", tmp_path / "sheet.png", "--images", "2")[1]["bad"] == {}
    kept = ("--index-cache", tmp_path / "cache")
    code, about = inspected(capsys, root, "--out", tmp_path / "sheet.png", "--images", "2", "--verify", *kept)
    assert code == 1 and list(about["bad"]) == [str(odd)]

    def opened(allowed, cache):
        reading = Reading(max_bad_images=allowed, index_cache=cache)
        return open_dataset(
            f"imagefolder:{root}", image_size=8, resident=False, limit_train=None, threads=1, reading=reading
        )

    with pytest.raises(UserError, match=f"1 image cannot be used .*{odd}"):
        opened(0, tmp_path / "cache")
    assert str(odd) not in opened(1, tmp_path / "cache").train.records
    assert str(odd) in opened(0, None).train.records


def test_as_a_person_sees_it(root, tmp_path):
    (root / "train" / "ant" / "1.jpg").write_bytes(b"")
    line = [sys.executable, "-m", "fastkd.data", "inspect", str(root), "--out", str(tmp_path / "sheet.png")]
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1 and not done.stderr
    for words in ("imagefolder: 2 classes", "ant (5 + 2); bee (6 + 2)", "1 bad files", "1.jpg is empty", "sheet.png"):
        assert words in done.stdout, done.stdout


def test_a_sheet_that_stands_there_is_left_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("contact-sheet.png").write_text("mine")
    for name in ("contact-sheet-2.png", "contact-sheet-3.png"):
        assert inspected(capsys, "digits", "--images", "2")[1]["sheet"] == name
    assert Path("contact-sheet.png").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "contact-sheet-2.png",
        "contact-sheet-3.png",
        "contact-sheet.png",
    ]


def test_class_folders_without_parts(root, tmp_path, capsys):
    code, about = inspected(capsys, root / "train", "--out", tmp_path / "sheet.png", "--images", "2", "--verify")
    assert code == 0 and about["name"] == "class folders"
    assert about["splits"]["train"]["per_class"] == [6, 6] and about["splits"]["test"]["images"] == 0


def test_a_set_without_files(tmp_path, capsys):
    assert main(["inspect", "digits", "--out", str(tmp_path / "sheet.png")]) == 0
    assert "bad files" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "options, words",
    [
        (["digits", "--verify"], "--verify changes nothing: digits has no image files"),
        (["digits", "--class-list", "list.txt"], "--class-list changes nothing: digits has no image files"),
        (["digits", "--views", "0"], "--views: expected a whole number from 1 to 64, got '0'"),
        (["digits", "--images", "-2"], "--images: expected a whole number from 1 to 10,000, got '-2'"),
        (["digits", "--image-size", "0"], "--image-size: expected a whole number from 1 to 16,384, got '0'"),
        (["digits", "--image-size", "9"], "digits has images of 8 pixels, --image-size says 9"),
        (["digits", "--views", "2", "--rotations"], "--views changes nothing: --rotations shows four of each image"),
        (
            ["digits", "--crop", "resized", "--crop-padding", "2"],
            "--crop-padding changes nothing",
        ),
        (["digits", "--crop-padding", "9"], "--crop-padding is at most the image size, 8, got 9"),
        (["digits", "--out", "sheet"], "cannot write sheet: its name does not end as a picture's does"),
        (["digits", "--out", "."], "cannot write .: its name does not end as a picture's does"),
        (["digits", "--crop", "resized"], "random-resized crops need image files"),
        (["tiny-imagenet:.", "--class-list", "list.txt"], "--class-list changes nothing: the classes of tiny-imagenet"),
    ],
)
def test_options_that_make_no_sense(options, words):
    with pytest.raises(UserError, match=words):
        main(["inspect", *options])


def test_image_size_of_files(root):
    for path in (root, root / "train"):
        with pytest.raises(UserError, match="--image-size: expected a whole number from 1 to 16,384, got '-4'"):
            main(["inspect", str(path), "--image-size", "-4"])


def test_mistakes(root, tmp_path, capsys):
    with pytest.raises(UserError, match="no folder /no/such"):
        main(["inspect", "/no/such"])
    (tmp_path / "file").write_text("")
    with pytest.raises((UserError, SystemExit)):
        main(["inspect", str(root), "--out", str(tmp_path / "file" / "sheet.png")])
    assert main([]) == 2 and main(["--help"]) == 0
    assert "inspect DATA" in capsys.readouterr().out
