"""What is read out of a file, and what is refused by a look at its head and tail."""

import os
import struct

import numpy as np
import pytest
import torch
from helpers.corrupt_folders import opened, trained
from helpers.image_folders import picture
from helpers.odd_images import ODD, Odd

from fastkd.data.decoding import decode
from fastkd.support.errors import UserError


@pytest.mark.parametrize("kind", ODD)
def test_what_is_odd_is_converted(root, image, kind):
    expected = getattr(Odd, kind)(image)
    np.testing.assert_array_equal(decode(str(image)).numpy(), expected)
    data = opened(root)
    assert data.notes == () and len(data.train) == 16
    assert data.train.sizes[3].tolist() == [expected.shape[1], expected.shape[0]]
    held = opened(root, resident=True).train.images[3]
    if kind == "one_pixel":
        assert (held == torch.from_numpy(expected[0, 0].copy())).all()


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
