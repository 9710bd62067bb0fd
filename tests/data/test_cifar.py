"""CIFAR in its published binary format, in the Python version behind its checksum, corrupted, and damaged."""

import pickle
import struct

import numpy as np
import pytest
import torch
from helpers.feeding import evaluation_of, training_of
from helpers.real_data import REAL, needs_real_data

from fastkd.data import Augmentation, open_dataset
from fastkd.support.errors import UserError

OPTIONS = {"image_size": 32, "resident": True, "limit_train": None, "threads": 1}


def write_cifar100(folder, train=20, test=10):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for name, count in (("train", train), ("test", test)):
        records = rng.integers(0, 100, (count, 3074), dtype=np.uint8)
        records.tofile(folder / f"{name}.bin")
    return folder


def open_cifar100(folder, **options):
    return open_dataset(f"cifar100:{folder}", **(OPTIONS | options))


def test_pixels_and_labels(tmp_path):
    folder = write_cifar100(tmp_path / "cifar-100-binary")
    data = open_cifar100(tmp_path)
    record = np.fromfile(folder / "train.bin", dtype=np.uint8).reshape(-1, 3074)[7]
    assert data.train.labels[7] == record[1]  # the fine label, not the coarse one
    red, green, blue = record[2:].reshape(3, 32, 32)
    assert torch.equal(data.train.images[7], torch.from_numpy(np.stack([red, green, blue], axis=2)))
    assert (len(data.train), len(data.test), len(data.classes)) == (20, 10, 100)


def test_cifar10(tmp_path):
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        records = np.random.default_rng(0).integers(0, 10, (4, 3073), dtype=np.uint8)
        records.tofile(tmp_path / f"{name}.bin")
    (tmp_path / "batches.meta.txt").write_text("\n".join(f"class {number}" for number in range(10)) + "\n\n")
    data = open_dataset(f"cifar10:{tmp_path}", **OPTIONS)
    assert (len(data.train), len(data.test)) == (20, 4)
    assert data.classes[3] == "class 3"


def test_a_limit_keeps_a_fixed_subset(tmp_path):
    write_cifar100(tmp_path)
    whole, some, again = (open_cifar100(tmp_path, limit_train=limit) for limit in (None, 6, 6))
    assert len(some.train) == 6
    assert torch.equal(some.train.images, again.train.images)
    assert all(any(torch.equal(image, other) for other in whole.train.images) for image in some.train.images)
    assert len(some.test) == 10


class TestMistakes:
    def test_no_path(self):
        with pytest.raises(UserError, match="cifar100 needs a folder: --data cifar100:PATH"):
            open_dataset("cifar100", **OPTIONS)

    def test_no_folder(self, tmp_path):
        with pytest.raises(UserError, match="no folder .*missing"):
            open_cifar100(tmp_path / "missing")

    def test_empty_folder(self, tmp_path):
        with pytest.raises(UserError, match=r"no CIFAR-100 in .*expected train\.bin"):
            open_cifar100(tmp_path)

    def test_truncated_file(self, tmp_path):
        file = write_cifar100(tmp_path) / "train.bin"
        file.write_bytes(file.read_bytes()[:-5])
        with pytest.raises(UserError, match=r"train\.bin has 61,475 bytes, expected a multiple of 3,074"):
            open_cifar100(tmp_path)

    def test_empty_file(self, tmp_path):
        (write_cifar100(tmp_path) / "test.bin").write_bytes(b"")
        with pytest.raises(UserError, match=r"test\.bin has 0 bytes"):
            open_cifar100(tmp_path)

    def test_missing_test_file(self, tmp_path):
        (write_cifar100(tmp_path) / "test.bin").unlink()
        with pytest.raises(UserError, match=r"no file .*test\.bin"):
            open_cifar100(tmp_path)

    def test_label_out_of_range(self, tmp_path):
        file = write_cifar100(tmp_path) / "train.bin"
        content = bytearray(file.read_bytes())
        content[3 * 3074 + 1] = 100
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"train\.bin: record 3 has label 100, expected 0 to 99"):
            open_cifar100(tmp_path)

    def test_a_pickle_without_its_checksum_is_not_opened(self, tmp_path):
        folder = tmp_path / "cifar-100-python"
        folder.mkdir()
        for name in ("train", "test", "meta"):
            (folder / name).write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
        with pytest.raises(UserError, match="does not match its published checksum"):
            open_cifar100(tmp_path)
        assert not (tmp_path / "sprung").exists()

    def test_limit_above_what_there_is(self, tmp_path):
        write_cifar100(tmp_path)
        with pytest.raises(UserError, match="--limit-train is 1 to the 20 training images there are, got 21"):
            open_cifar100(tmp_path, limit_train=21)

    def test_wrong_image_size(self, tmp_path):
        write_cifar100(tmp_path)
        with pytest.raises(UserError, match="cifar100 has images of 32 pixels, --image-size says 64"):
            open_cifar100(tmp_path, image_size=64)

    def test_unknown_data_set(self):
        with pytest.raises(UserError, match="no data set 'cifar101'; did you mean .*'cifar100'"):
            open_dataset("cifar101:/x", **OPTIONS)


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@needs_real_data
@pytest.mark.slow
def test_real_cifar100(tmp_path):
    """The statistics that data/README.md gives for the unpacked set."""
    import subprocess
    import sys

    subprocess.run([sys.executable, str(REAL / "unpack_cifar100.py"), str(tmp_path)], check=True, capture_output=True)
    data = open_cifar100(tmp_path)
    assert (len(data.train), len(data.test)) == (50_000, 10_000)
    assert torch.bincount(data.train.labels).tolist() == [500] * 100
    assert torch.bincount(data.test.labels).tolist() == [100] * 100
    means = data.train.images.reshape(-1, 3).double().mean(0) / 255
    torch.testing.assert_close(means, torch.tensor([0.50708, 0.48655, 0.44092]).double(), rtol=0, atol=1e-4)
    assert data.classes[0] == "apple"


class TestCIFAR100C:
    def write(self, root, corruptions=("fog", "blur")):
        rng = np.random.default_rng(0)
        np.save(root / "labels.npy", np.arange(6) % 3)
        for name in corruptions:
            np.save(root / f"{name}.npy", rng.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8))

    def opened(self, path):
        return open_dataset(f"cifar100c:{path}", **OPTIONS)

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

    @pytest.mark.parametrize(
        "shape", ("(1000000000, 32, 32, 3)", "(" * 3000 + ")" * 3000, "2 ** 9 ** 9", "x", "(-1, 32, 32, 3)")
    )
    def test_a_head_that_promises_what_is_not_there(self, tmp_path, shape):
        self.write(tmp_path)
        head = "{'descr': '|u1', 'fortran_order': False, 'shape': " + shape + "}\n"
        content = b"\x93NUMPY\x02\0" + struct.pack("<I", len(head)) + head.encode() + bytes(100)
        (tmp_path / "fog.npy").write_bytes(content)
        with pytest.raises(UserError, match=r"fog\.npy is no array of numpy: truncated\?"):
            self.opened(tmp_path)

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
        for labels in (np.array([0.5, 1.5]), np.array([1j, 2]), np.array(["a", "b"]), np.array([True, False])):
            np.save(tmp_path / "labels.npy", labels)
            with pytest.raises(UserError, match=r"labels\.npy holds .*, expected integers from 0 to 99"):
                self.opened(tmp_path)
        np.save(tmp_path / "labels.npy", np.array([0, 100]))
        with pytest.raises(UserError, match="has labels from 0 to 100, expected 0 to 99"):
            self.opened(tmp_path)
