"""Image folders: what is read of them, and their layouts."""

import shutil

import numpy as np
import pytest
import torch
from helpers.corrupt_folders import opened
from helpers.image_folders import write_folder
from helpers.real_data import REAL, needs_real_data
from PIL import Image

from fastkd.data import Reading, folder, open_dataset
from fastkd.data.base import channel_statistics
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
        assert set(some.train.records) < set(whole.train.records)
        assert [("ant" in path) for path in some.train.records] == (some.train.labels == 0).tolist()


def test_more_than_fits_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("fastkd.data.folder.free_memory", lambda: 1000)
    with pytest.raises(UserError, match="10 images of 8 pixels take 0.0 GiB, 0.0 are free: .* --resident off"):
        open_folder(write_folder(tmp_path))


def test_a_picture_that_no_workers_memory_holds_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    root = write_folder(tmp_path)
    Image.new("1", (5000, 4000)).save(root / "train" / "bee" / "9.png")
    monkeypatch.setattr("fastkd.data.assembled.free_memory", lambda: 300 << 20)
    with pytest.raises(UserError, match=r"9\.png has 5000 x 4000 pixels: decoded by 4 workers it takes 0.6 GiB"):
        open_folder(root, reading=Reading(workers=4))
    assert len(open_folder(root, reading=Reading(workers=1), resident=False).train) == 11


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

    @pytest.mark.parametrize("name", ("val", "validation", "valid", "test"))
    def test_names_of_the_folder_that_is_tested_on(self, tmp_path, name):
        root = write_folder(tmp_path)
        (root / "val").rename(root / name)
        assert len(open_folder(root).test) == 4

    def test_what_is_accepted_is_named_beside_what_there_is(self, tmp_path):
        root = write_folder(tmp_path)
        (root / "val").rename(root / "Eval")
        with pytest.raises(UserError, match=r"'val' \(or 'validation', 'valid', 'test'\) .*; it has Eval, train: with"):
            open_folder(root)

    @pytest.mark.parametrize("part", ("train", "val"))
    def test_images_that_lie_in_no_class_folder(self, tmp_path, part):
        root = write_folder(tmp_path)
        for file in list((root / part).glob("*/*")):
            file.rename(root / part / f"{file.parent.name}-{file.name}")
        for name in ("ant", "bee"):
            (root / part / name).rmdir()
        with pytest.raises(UserError, match=rf"{part} has no class folders, but images, as .*: put each into a folder"):
            open_folder(root)

    @pytest.mark.parametrize("part", ("train", "val"))
    def test_a_class_without_images_says_what_an_image_ends_in(self, tmp_path, part):
        root = write_folder(tmp_path)
        for file in (root / part / "bee").iterdir():
            file.rename(file.with_suffix(".heic"))
        with pytest.raises(UserError, match=r"bee has no images: files that end in \.jpg, \.jpeg, .*, \.tiff$"):
            open_folder(root)

    def test_a_class_that_is_not_tested(self, tmp_path):
        root = write_folder(tmp_path)
        shutil.rmtree(root / "val" / "bee")
        with pytest.raises(UserError, match="no class folder .*bee: every class has .* images to test on"):
            open_folder(root)

    def test_empty_class_folder(self, tmp_path):
        (write_folder(tmp_path) / "train" / "cat").mkdir()
        with pytest.raises(UserError, match="the class folder .*cat has no images"):
            open_folder(tmp_path)

    def test_class_that_is_only_tested(self, tmp_path):
        (write_folder(tmp_path) / "val" / "cat").mkdir()
        with pytest.raises(UserError, match="has a class 'cat' that .*train lacks"):
            open_folder(tmp_path)


@needs_real_data
def test_real_tiny_imagenet_folder():
    data = open_dataset(f"imagefolder:{REAL / 'tiny-imagenet-20'}", **(OPTIONS | {"image_size": 64}))
    assert (len(data.train), len(data.test), len(data.classes)) == (5000, 1000, 20)
    assert data.train.images.shape[1:] == (64, 64, 3)
    assert torch.bincount(data.test.labels).tolist() == [50] * 20
    assert data.classes[0] == "trilobite"
    with Image.open(sorted((REAL / "tiny-imagenet-20" / "train" / "n01768244").iterdir())[7]) as image:
        assert torch.equal(data.train.images[7], torch.from_numpy(np.array(image.convert("RGB"))))


def write_tiny_imagenet(root):
    """Two classes of three training images; the four validation images lie in one folder."""
    rng = np.random.default_rng(0)

    def save(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(file, format="PNG")

    for wnid in ("n02", "n01"):
        for number in range(3):
            save(root / "train" / wnid / "images" / f"{wnid}_{number}.JPEG")
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("")
    for number in range(4):
        save(root / "val" / "images" / f"val_{number}.JPEG")
    lines = [f"val_{number}.JPEG\t{wnid}\t0\t0\t62\t62" for number, wnid in enumerate(("n02", "n01", "n01", "n02"))]
    (root / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    (root / "wnids.txt").write_text("n02\nn01\n")
    (root / "words.txt").write_text("n01\tant, emmet\nn02\tbee\nn03\tcat\n")
    return root


class TestTinyImageNet:
    def opened(self, root, **reading):
        return open_dataset(f"tiny-imagenet:{root}", reading=Reading(**reading), **(OPTIONS | {"image_size": 64}))

    def test_its_own_layout(self, tmp_path):
        root = write_tiny_imagenet(tmp_path)
        data = self.opened(root)
        assert data.classes == ("ant, emmet", "bee")
        assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
        assert data.test.labels.tolist() == [1, 0, 0, 1]
        with Image.open(root / "train" / "n01" / "images" / "n01_1.JPEG") as image:
            assert torch.equal(data.train.images[1], torch.from_numpy(np.array(image)))
        with Image.open(root / "val" / "images" / "val_3.JPEG") as image:
            assert torch.equal(data.test.images[3], torch.from_numpy(np.array(image)))

    def test_an_image_that_is_left_out_takes_its_label_along(self, tmp_path):
        root = write_tiny_imagenet(tmp_path)
        (root / "val" / "images" / "val_1.JPEG").write_bytes(b"")
        with pytest.raises(UserError, match=r"val_1\.JPEG is empty"):
            self.opened(root)
        assert self.opened(root, max_bad_images=1).test.labels.tolist() == [1, 0, 1]

    def test_mistakes(self, tmp_path):
        root = write_tiny_imagenet(tmp_path)
        (root / "val" / "images" / "val_9.JPEG").write_bytes((root / "val" / "images" / "val_1.JPEG").read_bytes())
        with pytest.raises(UserError, match=r"val_annotations\.txt does not name images/val_9\.JPEG"):
            self.opened(root)
        (root / "val" / "images" / "val_9.JPEG").unlink()
        (root / "val" / "images" / "val_2.JPEG").unlink()
        with pytest.raises(UserError, match=r"no file .*val_2\.JPEG, which .*val_annotations\.txt names"):
            self.opened(root)
        (root / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn07\n")
        with pytest.raises(UserError, match="line 1: expected FILE and one of the classes"):
            self.opened(root)
        (root / "wnids.txt").unlink()
        with pytest.raises(UserError, match=r"cannot read .*wnids\.txt"):
            self.opened(root)


@needs_real_data
def test_tiny_imagenets_statistics():
    """Twenty of its classes have nearly those of all two hundred, and tell which of two conventions these are."""
    data = open_dataset(f"imagefolder:{REAL / 'tiny-imagenet-20'}", **(OPTIONS | {"image_size": 64}))
    mean, std = channel_statistics(data.train.images)
    images_nPC = data.train.images.reshape(-1, 64 * 64, 3).float() / 255
    each = images_nPC.std(1, correction=0).mean(0)
    assert np.allclose(folder._TINY_MEAN, mean, atol=0.012) and np.allclose(folder._TINY_STD, std, atol=0.006)
    assert np.allclose((0.2302, 0.2265, 0.2262), each, atol=0.006)


def test_a_class_without_usable_images_is_an_error(root):
    for file in (root / "val" / "ant").iterdir():
        file.write_bytes(b"")
    with pytest.raises(UserError, match="the class folder .*val.ant has no images"):
        opened(root, allowed=10)


def test_resident_sets_leave_it_out_when_they_are_decoded(root, image):
    content = bytearray(image.read_bytes())
    content[-60:-2] = b"\xff\xd9" * 29  # the scan sees an end
    image.write_bytes(content[:200] + content[-60:])
    with pytest.raises(UserError, match=f"1 image cannot be used .*{image}"):
        opened(root, resident=True)
    data = opened(root, allowed=1, resident=True)
    assert len(data.train) == 15
