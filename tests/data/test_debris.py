"""What tools leave in a data set is neither a class nor a sample."""

import os
import shutil
from pathlib import Path

import pytest
from helpers.corrupt_folders import opened
from helpers.image_folders import write_folder

from fastkd.data import debris
from fastkd.data.debris import copies, is_debris, odd
from fastkd.data.inspect import describe
from fastkd.support.errors import UserError

HIDDEN = (".ipynb_checkpoints", ".DS_Store", "._ant", ".git", ".Trash-1000", ".thumbnails", ".@__thumb")
LEFT = (*HIDDEN, *sorted(debris._NAMES), "@eaDir", "Thumbs.db", "~$ant", "ant~", "ant.bak", "ant.orig", "bee.tmp")
COPIES = ("ant copy", "ant - Copy", "Copy of bee", "bee (copy)", "ant_copy")
MEANT = (
    "ant",
    "n01440764",
    "0",
    "-1",
    "ant (1)",
    "copy",
    "photo copy",
    "a.b",
    "thumbs up",
    "über",
    "_",
    "#1",
    "@",
    "$",
)


def test_what_tools_leave_is_known_by_its_name():
    assert all(map(is_debris, LEFT))
    assert not any(map(is_debris, MEANT))


def test_a_copy_is_one_beside_what_was_copied():
    assert copies({"ant", "bee", *COPIES}) == set(COPIES)
    assert copies(set(COPIES)) == set() == copies({"photo copy", "copy", "copy of "})


COPIES_OF_FILES = (
    *("0 copy.png", "0 copy 2.png", "0 - Copy.png", "0 - Copy (2).png", "Copy of 0.png", "Copy of 0 copy.png"),
    *("0 (copy).png", "0 (another copy).png", "0 (3rd copy).png", "0_copy.png", "0-copy.png", "0.png copy"),
)


def test_a_copy_of_a_file_is_no_sample(tmp_path):
    root = write_folder(tmp_path)
    image, kept = root / "train/bee/0.png", root / "train/bee/photo copy.png"
    assert copies({"0.png", *COPIES_OF_FILES}) == set(COPIES_OF_FILES)
    assert copies({"0.jpg", "0 copy.png", "copy.png", " copy.png"}) == set()
    for name in COPIES_OF_FILES:
        os.link(image, image.with_name(name))
    os.link(image, kept)
    (image.parent / "1 copy.png").mkdir()
    os.link(image, image.parent / "1 copy.png" / "2.png")
    data = opened(root)
    assert len(data.train) == 11 and kept in [Path(data.train.records[place]) for place in range(11)]
    assert any(f"tools left, passed over: {len(COPIES_OF_FILES) + 1}, as " in note for note in data.notes)


def test_what_may_be_a_copy_by_its_number_is_taken_and_told(tmp_path):
    root = write_folder(tmp_path)
    for name in ("0 (1).png", "0(2).png", "9 (1).png", "(1).png"):
        shutil.copy(root / "train/bee/0.png", root / "train/bee" / name)
    (root / "train/bee/1 (1).png").write_bytes((root / "train/bee/1.png").read_bytes() + b"end")
    notes = opened(root).notes
    assert len(opened(root).train) == 15
    (told,) = [note for note in notes if note.startswith("files that may be copies of others, but are taken: 2, as ")]
    assert "bee/0 (1).png" in told and "bee/0(2).png" in told


def test_odd_names_of_classes():
    assert odd(("ant", "ant (1)", " ant", ".ant", "ant (x)", "(1)")) == ["ant (1)", " ant", ".ant"]


@pytest.mark.parametrize("part", ("train", "val"))
@pytest.mark.parametrize("name", (*LEFT, *COPIES))
def test_a_folder_of_it_is_no_class(tmp_path, part, name):
    root = write_folder(tmp_path)
    shutil.copytree(root / part / "ant", root / part / name)
    data = opened(root)
    assert data.classes == ("ant", "bee") and len(data.train) == 10 and len(data.test) == 4
    assert part == "val" or any(
        "folders that tools left, no classes: 1" in note and name in note for note in data.notes
    )


@pytest.mark.parametrize("name", (".hidden.png", "._0.png", "~$0.png", "SYNOFILE_THUMB_M_0.png", ".cache", "@eaDir"))
def test_a_file_of_it_is_no_sample(tmp_path, name):
    root = write_folder(tmp_path)
    image = root / "train" / "bee" / "0.png"
    if name.endswith("png"):
        os.link(image, image.with_name(name))
    else:
        image.with_name(name).mkdir()
        os.link(image, image.with_name(name) / "0.png")
    data = opened(root)
    assert len(data.train) == 10
    assert any(note.startswith("files and folders that tools left, passed over: 1, as ") for note in data.notes)


def test_a_list_of_classes_may_name_a_hidden_one(tmp_path):
    root = write_folder(tmp_path, classes=("ant", ".bee"))
    (root / "classes.txt").write_text("ant\n.bee\n")
    assert opened(root).classes == ("ant",), "found by itself, the list is not of these folders"


def test_inspect_says_what_is_odd(tmp_path):
    root = write_folder(tmp_path, classes=("ant", "ant (1)"), per_class=1)
    notes = describe(opened(root))["notes"]
    assert "odd names of classes: 'ant (1)'" in notes
    assert "classes with one training image: 2, as ant, ant (1)" in notes


def test_nothing_but_debris(tmp_path):
    root = write_folder(tmp_path, classes=(".ant",))
    with pytest.raises(UserError, match="train has no class folders"):
        opened(root)
