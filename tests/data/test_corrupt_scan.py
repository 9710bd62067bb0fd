"""Damaged files that the scan finds: none kills a run that allowed it, none passes silently."""

import contextlib
import os
import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
from helpers.corrupt_folders import opened, trained
from helpers.image_folders import picture, write_folder

from fastkd.support.errors import UserError


def cut(file, share=0.5):
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])


def jpeg_of(size):
    """A head that states the size, and nothing else."""
    return b"\xff\xd8\xff\xc0\x00\x11\x08" + size + b"\x03" * 10 + b"\xff\xda\0\2\xff\xd9"


class Spoil:
    """What the scan finds."""

    @staticmethod
    def truncated(image):
        cut(image, 0.95)
        return "is truncated: no end of the JPEG"

    @staticmethod
    def cut_within_the_head(image):
        image.write_bytes(image.read_bytes()[:30])
        return "is truncated within the head of the JPEG"

    @staticmethod
    def truncated_behind_a_preview(image):
        """A camera's preview, a whole JPEG in the head, has an end of its own."""
        content = image.read_bytes()
        preview = b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content
        image.write_bytes((content[:2] + preview + content[2:])[:-20])
        return "is truncated: no end of the JPEG"

    @staticmethod
    def truncated_png(image):
        picture(np.random.default_rng(0), 40, 30).save(image, format="PNG")
        cut(image)
        return "is truncated: no end of the PNG"

    @staticmethod
    def empty(image):
        image.write_bytes(b"")
        return r"is empty \(0 bytes\)"

    @staticmethod
    def text(image):
        image.write_text("no picture")
        return "is no image: it begins with b'no pictu'"

    @staticmethod
    def web_page_for_a_gif(image):
        image.write_bytes(b"GIF8 not really")
        return "cannot be read: cannot identify image file"

    @staticmethod
    def link_to_nowhere(image):
        image.unlink()
        image.symlink_to("nowhere.jpg")
        return "cannot be read: No such file or directory"

    @staticmethod
    def link_to_itself(image):
        image.unlink()
        image.symlink_to(image.name)
        return "cannot be read: Too many levels of symbolic links"

    @staticmethod
    def pipe(image):
        image.unlink()
        os.mkfifo(image)
        return r"is empty|cannot be read"

    @staticmethod
    def too_large(image):
        image.write_bytes(
            b"\xff\xd8" + b"\xff\xc0\x00\x11\x08" + b"\xff\xff\xff\xff" + b"\x03" * 10 + b"\xff\xda\0\2\xff\xd9"
        )
        return "has 65535 x 65535 pixels, more than"

    @staticmethod
    def no_pixels(image):
        image.write_bytes(jpeg_of(bytes(4)))
        return "has 0 x 0 pixels"


SPOILERS = [name for name in vars(Spoil) if not name.startswith("_")]


@pytest.mark.parametrize("spoiler", SPOILERS)
def test_the_scan_names_it_and_leaves_it_out(root, image, spoiler):
    words = getattr(Spoil, spoiler)(image)
    with pytest.raises(UserError, match=rf"1 image cannot be used \(--max-bad-images allows 0\): {image} ({words})"):
        opened(root)
    data = opened(root, allowed=1)
    assert len(data.train) == 15 and str(image) not in set(data.train.paths)
    assert [note for note in data.notes if str(image) in note and "left out" in note]
    assert len(trained(data, "torchvision")) == 3


def test_several_are_listed_and_counted(root):
    files = sorted((root / "train" / "bee").iterdir())[:3] + sorted((root / "val" / "ant").iterdir())[:1]
    for file in files:
        file.write_bytes(b"")
    with pytest.raises(UserError) as raised:
        opened(root, allowed=3)
    line = str(raised.value)
    assert line.startswith("4 images cannot be used (--max-bad-images allows 3)") and "\n" not in line
    assert all(f"{file} is empty" in line for file in files)
    data = opened(root, allowed=4)
    assert (len(data.train), len(data.test)) == (13, 7)


def test_a_long_list_is_cut(root):
    for part in ("train", "val"):
        for file in (root / part).rglob("[1-9].jpg"):
            file.write_bytes(b"")
    with pytest.raises(UserError, match=r"20 images cannot be used .*; and 10 more$"):
        opened(root)


def test_a_class_without_usable_images_is_an_error(root):
    for file in (root / "val" / "ant").iterdir():
        file.write_bytes(b"")
    with pytest.raises(UserError, match="the class folder .*val.ant has no images"):
        opened(root, allowed=10)


def test_unreadable_file():
    with tempfile.TemporaryDirectory() as place:
        root = write_folder(Path(place) / "data", size=None, ending="jpg")
        os.chmod(place, 0o755)
        image = root / "train" / "ant" / "3.jpg"
        image.chmod(0)
        with unprivileged():
            with pytest.raises(UserError, match=f"{image} cannot be read: Permission denied"):
                opened(root)
            assert len(opened(root, allowed=1).train) == 9
        image.chmod(0o644)
        image.parent.chmod(0)
        with unprivileged(), pytest.raises(UserError, match=f"{image.parent}.*(cannot be read|has no images)"):
            opened(root)
        image.parent.chmod(0o755)


@contextlib.contextmanager
def unprivileged():
    """Root may read everything."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_circle_of_links(root):
    (root / "train" / "ant" / "again").symlink_to(root / "train" / "ant")
    with pytest.raises(UserError, match=r"again is a link to a folder that it lies in"):
        opened(root)
    assert len(opened(root, allowed=1).train) == 16


def test_links_that_are_no_circle_are_followed(root):
    (root / "train" / "ant" / "more").symlink_to(root / "train" / "bee")
    data = opened(root)
    assert data.train.labels.tolist() == [0] * 16 + [1] * 8


def test_other_files_are_passed_over_and_told(root):
    for name in ("notes.txt", "more.csv"):
        (root / "train" / "ant" / name).write_text("")
    data = opened(root)
    assert len(data.train) == 16
    assert "2 files that do not end as images do are passed over" in data.notes[0] and "notes.txt" in data.notes[0]
