"""STL-10 in its published layout."""

import numpy as np
import pytest
import torch

from fastkd.data import open_dataset
from fastkd.support.errors import UserError

OPTIONS = {"image_size": 96, "resident": True, "limit_train": None, "threads": 1}


class TestSTL10:
    def write(self, root, labels=(1, 10, 3)):
        images = np.random.default_rng(0).integers(0, 256, (3, 96, 96, 3), dtype=np.uint8)
        for part in ("train", "test"):
            images.transpose(0, 3, 2, 1).tofile(root / f"{part}_X.bin")  # planes, column after column
            np.array(labels, np.uint8).tofile(root / f"{part}_y.bin")
        (root / "class_names.txt").write_text("\n".join(f"class{number}" for number in range(10)))
        return images

    def opened(self, root):
        return open_dataset(f"stl10:{root}", **OPTIONS)

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

    def test_without_a_file_of_names_classes_are_numbers(self, tmp_path):
        self.write(tmp_path)
        (tmp_path / "class_names.txt").unlink()
        assert self.opened(tmp_path).classes == tuple("0123456789")

    @pytest.mark.parametrize("count", (0, 9, 11))
    def test_another_number_of_names_is_refused(self, tmp_path, count):
        self.write(tmp_path)
        (tmp_path / "class_names.txt").write_text("\n".join(f"class{number}" for number in range(count)))
        with pytest.raises(UserError, match=rf"class_names\.txt has {count} names, expected 10"):
            self.opened(tmp_path)

    @pytest.mark.parametrize("name", ("test_X.bin", "test_y.bin"))
    def test_files_of_the_test_part_are_needed_and_not_empty(self, tmp_path, name):
        self.write(tmp_path)
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(UserError, match=rf"{name} has 0 bytes, expected a multiple of"):
            self.opened(tmp_path)
        (tmp_path / name).unlink()
        with pytest.raises(UserError, match=rf"no file .*{name}"):
            self.opened(tmp_path)

    def test_a_label_above_ten_is_refused(self, tmp_path):
        self.write(tmp_path, labels=(1, 11, 3))
        with pytest.raises(UserError, match="has labels from 1 to 11, expected 1 to 10"):
            self.opened(tmp_path)

    def test_no_folder(self, tmp_path):
        with pytest.raises(UserError, match="no folder .*missing"):
            self.opened(tmp_path / "missing")
        with pytest.raises(UserError, match="stl10 needs a folder: --data stl10:PATH"):
            open_dataset("stl10", **OPTIONS)
