"""What there is to say of a data set: its numbers, its bad files, and a sheet of its images."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.corrupt_folders import opened
from helpers.image_folders import write_folder
from PIL import Image

from fastkd.data import FOUR_ROTATIONS, ONE_VIEW, Augmentation, DataSet, Split, Views, open_dataset
from fastkd.data.inspect import contact_sheet, describe, verify


@pytest.fixture
def root(tmp_path):
    return write_folder(tmp_path / "data", size=None, ending="jpg", per_class=6)


def made(train, test, size=8):
    """So many grey images in each part, of two classes; the second has none."""
    parts = [Split(torch.full((n, size, size, 3), 99, dtype=torch.uint8), torch.zeros(n).long()) for n in (train, test)]
    return DataSet(name="made", train=parts[0], test=parts[1], classes=("a", "b"), mean=(0.5,) * 3, std=(0.5,) * 3)


def sheet(data, file, *, images=48, image_size=100, augmentation=None, views=ONE_VIEW):
    augmentation = augmentation or Augmentation(crop="resized")
    contact_sheet(data, file, image_size=image_size, augmentation=augmentation, views=views, images=images, seed=0)
    with Image.open(file) as found:
        return found.size, np.asarray(found)


class TestDescribe:
    def test_numbers_of_files(self, root):
        about = describe(opened(root))
        assert about["bad"] == {} and about["classes"] == ["ant", "bee"]
        train = about["splits"]["train"]
        assert (train["images"], train["per_class"]) == (12, [6, 6])
        assert 20 <= train["width"]["least"] <= train["width"]["median"] <= train["width"]["most"] < 90
        assert about["splits"]["test"]["images"] == 4

    def test_sizes_are_the_five_most_frequent_and_how_many_have_others(self, tmp_path):
        root = write_folder(tmp_path, size=(30, 20), per_class=8, tests=1)
        for number in range(6):
            Image.new("RGB", (40 + number, 7)).save(root / "train" / "ant" / f"{number}.png")
        train = describe(opened(root))["splits"]["train"]
        assert next(iter(train["sizes"].items())) == ("30 x 20", 10) and len(train["sizes"]) == 5
        assert train["other_sizes"] == 2 and sum(train["sizes"].values()) + train["other_sizes"] == 16
        assert (train["width"], train["height"]["least"]) == ({"least": 30, "median": 30, "most": 45}, 7)

    def test_files_that_not_every_decoder_reads_alike_are_counted(self, root):
        Image.new("RGB", (9, 9)).save(root / "train" / "ant" / "0.jpg", format="BMP")
        assert describe(opened(root))["splits"]["train"]["neither_jpeg_nor_8_bit_png"] == 1

    def test_what_was_left_out_is_told_once(self, root):
        """As a bad file, not as a note besides."""
        (root / "train" / "ant" / "0.jpg").write_bytes(b"")
        (root / "train" / "ant" / "notes.txt").write_text("")
        about = describe(opened(root, allowed=1))
        assert list(about["bad"].values()) == ["is empty (0 bytes)"] and len(about["notes"]) == 1
        assert "notes.txt" in about["notes"][0]

    def test_images_held_as_bytes_have_one_size(self):
        about = describe(made(3, 2))
        assert about["splits"]["train"] == {"images": 3, "per_class": [3, 0], "sizes": {"8 x 8": 3}}

    def test_a_part_may_be_empty(self):
        assert describe(made(0, 2))["splits"]["train"]["per_class"] == [0, 0]


class TestVerify:
    @pytest.mark.parametrize("threads", (1, 3))
    def test_damage_that_the_scan_cannot_see_is_found_in_both_parts(self, root, threads):
        damaged = set()
        for place in ("train/bee/2.jpg", "val/ant/0.jpg"):
            noise = np.random.default_rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8)
            Image.fromarray(noise).save(root / place, "PNG")
            content = (root / place).read_bytes()
            (root / place).write_bytes(content[:60] + bytes(200) + content[260:])
            damaged.add(str(root / place))
        found = verify(opened(root), threads)
        assert found.keys() == damaged and all(reason.startswith("cannot be read") for reason in found.values())

    def test_a_file_that_changed_since_the_scan_is_found(self, root):
        data = opened(root)
        Image.new("RGB", (5, 4)).save(root / "train" / "ant" / "0.jpg")
        width, height = data.train.sizes[0].tolist()
        assert verify(data, 1) == {data.train.records[0]: f"has 5 x 4 pixels, its head says {width} x {height}"}

    def test_nothing_is_wrong_with_whole_files_or_bytes(self, root):
        assert verify(opened(root), 2) == {} == verify(made(2, 2), 1)


class TestSheet:
    @pytest.mark.parametrize(
        "options, per_row, size",
        [
            ({"images": 6}, 8, (6, 1)),
            ({"images": 8, "views": FOUR_ROTATIONS}, 8, (8, 1)),
            ({"images": 12, "views": Views(3), "augmentation": Augmentation()}, 6, (6, 2)),
            ({}, 8, (8, 2)),
        ],
        ids=("six", "rotations", "views", "all there are"),
    )
    def test_every_view_has_a_cell(self, root, tmp_path, options, per_row, size):
        found, pixels = sheet(opened(root), tmp_path / "deep" / "sheet.png", **options)
        assert found == (per_row * 104 + 4, size[1] * 118 + 4)
        for row in range(size[1]):
            for column in range(size[0] if row == 0 else 4):
                cell = pixels[4 + row * 118 : 104 + row * 118, 4 + column * 104 : 104 + column * 104]
                assert cell.std() > 0

    def test_small_pictures_are_enlarged(self, tmp_path):
        data = open_dataset("digits", image_size=8, resident=True, limit_train=None, threads=1)
        found, _ = sheet(data, tmp_path / "sheet.png", images=3, image_size=8, augmentation=Augmentation())
        assert found == (8 * 100 + 4, 96 + 14 + 8)

    @pytest.mark.parametrize("images", (1, 48))
    def test_one_image_makes_a_sheet(self, images, tmp_path):
        plain = Augmentation(crop_padding=0, flip=False)
        found, pixels = sheet(made(1, 1), tmp_path / "sheet.png", images=images, image_size=8, augmentation=plain)
        assert found == (8 * 100 + 4, 96 + 14 + 8)
        assert (pixels[4:100, 4:100] == 99).all(), "the image itself"
        assert (pixels[:, 110:] == 255).all(), "no second image"

    def test_fewer_pictures_than_views_still_show_one_image(self, tmp_path):
        found, _ = sheet(
            made(3, 1), tmp_path / "sheet.png", images=1, image_size=8, augmentation=Augmentation(), views=Views(3)
        )
        assert found == (6 * 100 + 4, 96 + 14 + 8)

    def test_a_long_name_is_cut_to_its_cell(self, tmp_path):
        data, plain = made(2, 1), Augmentation(crop_padding=0, flip=False)
        named = replace(data, classes=("a name that is far too long for the cell of one picture", "b"))
        _, pixels = sheet(named, tmp_path / "sheet.png", image_size=8, augmentation=plain)
        gap = pixels[100:114, 100:104]
        assert (gap == 255).all() and (pixels[100:114, 4:100] < 255).any()
