"""Image folders: what is read of them, and their layouts."""

import numpy as np
import pytest
import torch
from helpers.feeding import training_of
from helpers.image_folders import write_folder
from helpers.real_data import REAL, needs_real_data
from PIL import Image

from fastkd.data import Augmentation, Reading, open_dataset
from fastkd.support.errors import UserError

OPTIONS = {"image_size": 8, "resident": True, "limit_train": None, "threads": 2}


def open_folder(root, **options):
    return open_dataset(f"imagefolder:{root}", **(OPTIONS | options))


def test_images_of_the_right_size_are_kept_as_they_are(tmp_path):
    data = open_folder(write_folder(tmp_path))
    with Image.open(tmp_path / "train" / "bee" / "2.png") as image:
        expected = torch.from_numpy(np.array(image))
    assert torch.equal(data.train.images[7], expected)
    assert data.train.labels.tolist() == [0] * 5 + [1] * 5
    assert data.classes == ("ant", "bee")


def test_other_sizes_and_modes_are_resized_cropped_and_converted(tmp_path):
    root = write_folder(tmp_path, size=(20, 12))
    with Image.open(root / "train" / "ant" / "0.png") as image:
        image.convert("L").save(root / "train" / "ant" / "0.png")
    data = open_folder(root)
    assert data.train.images.shape == (10, 8, 8, 3)
    grey = data.train.images[0]
    assert torch.equal(grey[..., 0], grey[..., 1])
    assert not torch.equal(data.train.images[1][..., 0], data.train.images[1][..., 1])


@pytest.mark.parametrize("resident", (True, False))
def test_a_limit_keeps_a_fixed_subset(tmp_path, resident):
    root = write_folder(tmp_path)
    whole, some = (open_folder(root, resident=resident, limit_train=limit) for limit in (None, 4))
    assert len(some.train) == 4 and len(some.test) == 4
    if resident:
        assert all(any(torch.equal(image, other) for other in whole.train.images) for image in some.train.images)
    else:
        assert set(some.train.paths) < set(whole.train.paths)
        assert [("ant" in path) for path in some.train.paths] == (some.train.labels == 0).tolist()


def test_more_than_fits_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("fastkd.data.folder._free_memory", lambda: 1000)
    with pytest.raises(UserError, match="10 images of 8 pixels take 0.0 GiB, 0.0 are free: .* --resident off"):
        open_folder(write_folder(tmp_path))


class TestClasses:
    def listed(self, root, lines, **options):
        file = root.parent / "list.txt"
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return open_folder(root, reading=Reading(class_list=str(file)), **options)

    def test_a_list_gives_order_names_and_choice(self, tmp_path):
        root = write_folder(tmp_path / "data", classes=("ant", "bee", "cat", "two words"))
        data = self.listed(root, ["cat\tthe cat, félin", "", "two words", "ant"])
        assert data.classes == ("the cat, félin", "two words", "ant")
        assert data.train.labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5
        with Image.open(root / "train" / "cat" / "0.png") as image:
            assert torch.equal(data.train.images[0], torch.from_numpy(np.array(image)))
        assert "names 3 of the 4 classes" in data.notes[0]

    def test_a_list_in_the_folder_is_found(self, tmp_path):
        root = write_folder(tmp_path)
        (root / "classes.txt").write_text("bee honey maker\nant\n")
        data = open_folder(root)
        assert data.classes == ("honey maker", "ant") and not data.notes

    def test_another_file_of_that_name_is_passed_over_and_told(self, tmp_path):
        root = write_folder(tmp_path)
        (root / "classes.txt").write_text("lessons on Monday\n")
        data = open_folder(root)
        assert data.classes == ("ant", "bee")
        assert "it is passed over" in data.notes[0]

    @pytest.mark.parametrize(
        "lines, words",
        [
            (["ant", "dog"], "names a class 'dog' that has no folder"),
            (["ant", "ant"], "names the class 'ant' twice"),
            ([""], "names no classes"),
        ],
    )
    def test_mistakes(self, tmp_path, lines, words):
        with pytest.raises(UserError, match=words):
            self.listed(write_folder(tmp_path / "data"), lines)

    def test_no_such_list(self, tmp_path):
        with pytest.raises(UserError, match="cannot read /no/such/list: No such file"):
            open_folder(write_folder(tmp_path), reading=Reading(class_list="/no/such/list"))


class TestMistakes:
    def test_no_train_folder(self, tmp_path):
        with pytest.raises(UserError, match="has no folders 'train' and 'val'"):
            open_folder(tmp_path)

    def test_empty_class_folder(self, tmp_path):
        (write_folder(tmp_path) / "train" / "cat").mkdir()
        with pytest.raises(UserError, match="the class folder .*cat has no images"):
            open_folder(tmp_path)

    def test_class_that_is_only_tested(self, tmp_path):
        (write_folder(tmp_path) / "val" / "cat").mkdir()
        with pytest.raises(UserError, match="has a class 'cat' that .*train lacks"):
            open_folder(tmp_path)

    def test_resized_crops_of_bytes(self):
        data = open_dataset("digits", **OPTIONS)
        with pytest.raises(UserError, match="random-resized crops need image files"):
            training_of(data, image_size=8, batch_size=4, seed=3, augmentation=Augmentation(crop="resized"))


@needs_real_data
def test_real_tiny_imagenet_folder():
    data = open_dataset(f"imagefolder:{REAL / 'tiny-imagenet-20'}", **(OPTIONS | {"image_size": 64}))
    assert (len(data.train), len(data.test), len(data.classes)) == (5000, 1000, 20)
    assert data.train.images.shape[1:] == (64, 64, 3)
    assert torch.bincount(data.test.labels).tolist() == [50] * 20
    assert data.classes[0] == "trilobite"
    with Image.open(sorted((REAL / "tiny-imagenet-20" / "train" / "n01768244").iterdir())[7]) as image:
        assert torch.equal(data.train.images[7], torch.from_numpy(np.array(image.convert("RGB"))))
