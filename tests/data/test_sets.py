"""Tiny-ImageNet, STL-10 and CIFAR-100-C in their published layouts."""

import numpy as np
import pytest
import torch
from helpers.feeding import evaluation_of, training_of
from helpers.real_data import REAL, needs_real_data
from PIL import Image

from fastkd.data import Augmentation, Reading, folder, open_dataset
from fastkd.data.base import channel_statistics
from fastkd.support.errors import UserError

OPTIONS = {"resident": True, "limit_train": None, "threads": 1}


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
        return open_dataset(f"tiny-imagenet:{root}", image_size=64, reading=Reading(**reading), **OPTIONS)

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
    data = open_dataset(f"imagefolder:{REAL / 'tiny-imagenet-20'}", image_size=64, **OPTIONS)
    mean, std = channel_statistics(data.train.images)
    images_nPC = data.train.images.reshape(-1, 64 * 64, 3).float() / 255
    each = images_nPC.std(1, correction=0).mean(0)
    assert np.allclose(folder._TINY_MEAN, mean, atol=0.012) and np.allclose(folder._TINY_STD, std, atol=0.006)
    assert np.allclose((0.2302, 0.2265, 0.2262), each, atol=0.006)


def test_statistics_are_those_of_all_pixels():
    images = torch.randint(256, (300, 5, 7, 3), dtype=torch.uint8) // torch.tensor([1, 2, 3], dtype=torch.uint8)
    values = images.double().reshape(-1, 3) / 255
    mean, std = channel_statistics(images)
    np.testing.assert_allclose(mean, values.mean(0), rtol=1e-12)
    np.testing.assert_allclose(std, values.std(0, correction=0), rtol=1e-12)


class TestSTL10:
    def write(self, root, labels=(1, 10, 3)):
        images = np.random.default_rng(0).integers(0, 256, (3, 96, 96, 3), dtype=np.uint8)
        for part in ("train", "test"):
            images.transpose(0, 3, 2, 1).tofile(root / f"{part}_X.bin")  # planes, column after column
            np.array(labels, np.uint8).tofile(root / f"{part}_y.bin")
        (root / "class_names.txt").write_text("\n".join(f"class{number}" for number in range(10)))
        return images

    def opened(self, root):
        return open_dataset(f"stl10:{root}", image_size=96, **OPTIONS)

    def test_layout(self, tmp_path):
        images = self.write(tmp_path)
        data = self.opened(tmp_path)
        assert torch.equal(data.train.images, torch.from_numpy(images))
        assert data.test.labels.tolist() == [0, 9, 2]
        np.testing.assert_allclose(data.mean, (images / 255).mean((0, 1, 2)))
        np.testing.assert_allclose(data.std, (images / 255).std((0, 1, 2)))
        assert data.classes[9] == "class9"

    def test_the_folder_above(self, tmp_path):
        (tmp_path / "stl10_binary").mkdir()
        self.write(tmp_path / "stl10_binary")
        assert len(self.opened(tmp_path).train) == 3

    def test_mistakes(self, tmp_path):
        with pytest.raises(UserError, match=r"no file .*train_X\.bin"):
            self.opened(tmp_path)
        self.write(tmp_path, labels=(0, 1, 2))
        with pytest.raises(UserError, match="has labels from 0 to 2, expected 1 to 10"):
            self.opened(tmp_path)
        (tmp_path / "train_y.bin").write_bytes(b"\1\2")
        with pytest.raises(UserError, match="3 train images and 2 labels"):
            self.opened(tmp_path)
        (tmp_path / "train_X.bin").write_bytes(b"\1\2")
        with pytest.raises(UserError, match=r"train_X\.bin has 2 bytes, expected a multiple of 27,648"):
            self.opened(tmp_path)


class TestCIFAR100C:
    def write(self, root, corruptions=("fog", "blur")):
        rng = np.random.default_rng(0)
        np.save(root / "labels.npy", np.arange(6) % 3)
        for name in corruptions:
            np.save(root / f"{name}.npy", rng.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8))

    def opened(self, path):
        return open_dataset(f"cifar100c:{path}", image_size=32, **OPTIONS)

    def test_all_of_it_or_one_corruption(self, tmp_path):
        self.write(tmp_path)
        data, fog = self.opened(tmp_path), self.opened(tmp_path / "fog.npy")
        assert data.notes == ("CIFAR-100-C: blur, fog",)
        assert (len(data.test), len(fog.test), len(data.classes)) == (12, 6, 100)
        assert torch.equal(data.test.images[6:], fog.test.images)
        assert data.test.labels.tolist() == [0, 1, 2] * 4
        source = evaluation_of(data, image_size=32, batch_size=5)
        assert [len(raw.index) for raw in source.loader.epoch(0)] == [5, 5, 2]

    def test_it_is_for_evaluation(self, tmp_path):
        self.write(tmp_path)
        with pytest.raises(UserError, match="cifar100c has no training images: it is for evaluation"):
            training_of(self.opened(tmp_path), image_size=32, batch_size=2, augmentation=Augmentation(), seed=0)

    def test_mistakes(self, tmp_path):
        with pytest.raises(UserError, match="no CIFAR-100-C in"):
            self.opened(tmp_path)
        with pytest.raises(UserError, match="no folder and no file"):
            self.opened(tmp_path / "missing")
        self.write(tmp_path)
        np.save(tmp_path / "fog.npy", np.zeros((5, 32, 32, 3), np.uint8))
        with pytest.raises(UserError, match=r"fog\.npy has the shape \(5, 32, 32, 3\)"):
            self.opened(tmp_path)
        np.save(tmp_path / "fog.npy", np.array([{"a": 1}]), allow_pickle=True)
        with pytest.raises(UserError, match=r"fog\.npy is no array of numpy"):
            self.opened(tmp_path)
        np.save(tmp_path / "labels.npy", np.array([0, 100]))
        with pytest.raises(UserError, match="has labels from 0 to 100, expected 0 to 99"):
            self.opened(tmp_path)
